"""Images one after the other in a stream of bytes, as ffmpeg's image2pipe makes them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from segue.datasets.reading import MOST_BYTES
from segue.errors import SegueError

MAKE = "make them as `ffmpeg -i VIDEO -f image2pipe -c:v ppm -` does"
_CHUNK = 2**16
_PNG = b"\x89PNG\r\n\x1a\n"


class Readable(Protocol):
    """What gives the next bytes that there are, none at the end."""

    def read1(self, size: int = ..., /) -> bytes:
        """Up to `size` bytes, as soon as there are any."""


class _EndsWithinError(Exception):
    """The stream ends where more had to follow."""


class _TooLargeError(Exception):
    """A frame is announced that no image of that size could be opened."""


class _Bytes:
    """A stream of which whole images are cut off."""

    def __init__(self, stream: Readable | BinaryIO) -> None:
        self._stream, self._held, self._place = stream, bytearray(), 0

    def _more(self) -> bool:
        chunk = self._stream.read1(_CHUNK)  # type: ignore[union-attr]
        self._held += chunk
        return bool(chunk)

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        while len(self._held) < self._place + count and self._more():
            pass
        return bytes(self._held[self._place : self._place + count])

    def take(self, count: int) -> bytes:
        """The next bytes, which then are past."""
        if self._place + count > MOST_BYTES:
            raise _TooLargeError
        found = self.peek(count)
        if len(found) < count:
            raise _EndsWithinError
        self._place += count
        return found

    def skip_to(self, byte: bytes) -> None:
        """Goes on to the next such byte."""
        while (place := self._held.find(byte, self._place)) < 0:
            self._place = len(self._held)
            if self._place > MOST_BYTES:
                raise _TooLargeError
            if not self._more():
                raise _EndsWithinError
        self._place = place

    def cut(self) -> bytes:
        """All that was passed since the last cut."""
        passed = bytes(self._held[: self._place])
        del self._held[: self._place]
        self._place = 0
        return passed


def images_in(stream: Readable | BinaryIO, where: str = "stdin") -> Iterator[bytes]:
    """The files of a stream of PPM, PGM, PNG and JPEG images that follow each other.

    Nothing is read ahead but what has come, so that a frame is there as soon as it is whole.

    Raises:
        SegueError: no image comes, the stream ends within one, or holds something else.

    Example:
        >>> import io
        >>> image = b"P6 1 1 255 abc"
        >>> list(images_in(io.BytesIO(image + image))) == [image, image]
        True
    """
    held, number = _Bytes(stream), 0
    while head := held.peek(8):
        place = f"{where}, frame {number}"
        try:
            if head == _PNG:
                _pass_png(held)
            elif head[:2] == b"\xff\xd8":
                _pass_jpeg(held)
            elif head[:2] in (b"P5", b"P6"):
                _pass_pnm(held)
            else:
                told = f"is no PPM, PNG or JPEG image, it begins with {head!r}"
                raise SegueError(told, where=place, fix=MAKE)
        except _EndsWithinError as error:
            fix = "what was whole is predicted; look at what the program in front of the pipe says"
            raise SegueError("the stream ends within an image", where=place, fix=fix) from error
        except _TooLargeError as error:
            raise SegueError("is too large to open safely", where=place, fix=MAKE) from error
        except ValueError as error:
            raise SegueError("is damaged, its header is none", where=place, fix=MAKE) from error
        yield held.cut()
        number += 1
    if not number:
        raise SegueError("no image came", where=where, fix=MAKE)


def _pass_png(held: _Bytes) -> None:
    held.take(8)
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", held.take(8))
        held.take(length + 4)


def _pass_jpeg(held: _Bytes) -> None:
    held.take(2)
    while True:
        # Within compressed data 0xff is followed by 0, or by the number of a restart.
        held.skip_to(b"\xff")
        held.take(1)
        if held.peek(1) == b"\xff":  # may be repeated
            continue
        (code,) = held.take(1)
        if code == 0xD9:
            return
        if code not in (0x00, 0x01, *range(0xD0, 0xD8)):
            (length,) = struct.unpack(">H", held.take(2))
            if length < 2:
                raise ValueError(length)
            held.take(length - 2)


def _pass_pnm(held: _Bytes) -> None:
    channels = 3 if held.take(2) == b"P6" else 1
    width, height, most = (_number(held) for _ in range(3))
    if not (width and height and 0 < most < 65536):
        raise ValueError((width, height, most))
    held.take(width * height * channels * (1 if most < 256 else 2))


def _number(held: _Bytes) -> int:
    """The next number of a header, with the one byte of space after it."""
    digits = b""
    while True:
        sign = held.take(1)
        if sign == b"#":
            held.skip_to(b"\n")
        elif not sign.isspace():
            digits += sign
            if len(digits) > 9:
                raise ValueError(digits)
        elif digits:
            return int(digits)
