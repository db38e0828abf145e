"""Reads image and label files, and says what is wrong with those that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segue.datasets.files import opened, state
from segue.errors import SegueError

# The largest image that PIL opens without a word, four channels of 16 bits: a small ZIP file may
# unpack to anything.
MOST_BYTES = 8 * 89_478_485
_PNG = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR, _COLOUR_ALPHA = 0, 2, 6  # PNG colour types
# Not all that PIL knows: for some it starts other programs.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def read_image(path: Path) -> Image.Image:
    """The image as RGB, decoded; grey, palette and transparent images are converted.

    Raises:
        SegueError: the file is missing, empty, truncated, no image or too large.
    """
    return decode_image(_read_bytes(path), path)


def decode_image(data: bytes, where: object) -> Image.Image:
    """The image in the bytes of a file, as `read_image` gives it.

    Args:
        data: the file.
        where: what errors call it.

    Raises:
        SegueError: the file is truncated, no image or too large.
    """
    with _readable(where), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        if image.mode.startswith("I;16"):  # PIL would cut 16 bits off at 255
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def read_image_size(path: Path) -> tuple[int, int]:
    """Width and height, from the header alone.

    Raises:
        SegueError: the file is missing, empty, no image or too large.
    """
    with _openable(path), opened(path) as file:
        if not file.read(1):
            raise _empty(path)
        file.seek(0)
        with _readable(path), Image.open(file, formats=FORMATS) as image:
            return image.size


def read_raw_label(path: Path) -> NDArray[np.uint16]:
    """The ids [H, W] of a label file.

    A palette image gives its indices, a grey one of 1 to 16 bits its values, and a colour one
    (SYNTHIA's with 16 bits, CARLA's with 8) its first channel, red, where the others can be told
    from a picture.

    Raises:
        SegueError: the file is missing, empty, truncated, too large, or holds no ids.
    """
    data = _read_bytes(path)
    bits, colour_type = _png_header(data, path)
    with _readable(path), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.format == "JPEG":
            raise SegueError(
                "a JPEG cannot hold class ids, it changes them", where=path, fix="store PNG labels"
            )
        if bits == 16 and colour_type in (_COLOUR, _COLOUR_ALPHA):
            # OpenCV decodes what is left of a broken file without a word, PIL's check does not.
            image.verify()
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if decoded is None or decoded.dtype != np.uint16:
                raise OSError("cannot be decoded")
            return np.ascontiguousarray(decoded[..., 2])  # OpenCV's order is blue, green, red
        image.load()
        raw = np.asarray(image)
    if image.mode in ("RGB", "RGBA"):
        red, others = raw[..., 0], raw[..., 1:3]
        if others.any() and not (others == red[..., None]).all():
            raise SegueError(
                "the label is a colour picture, not class ids",
                where=path,
                fix="store one channel whose values are the ids",
            )
        raw = red
    elif image.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        raise SegueError(
            f"a label of mode {image.mode} holds no class ids",
            where=path,
            fix="store one channel of 8 or 16 bits",
        )
    elif colour_type == _GREY and bits in (2, 4):
        raw = raw // (255 // (2**bits - 1))  # PIL spreads the few values over 0 to 255
    if raw.dtype.kind == "i" and (raw.min() < 0 or raw.max() > 65535):
        raise SegueError(
            f"ids reach from {raw.min()} to {raw.max()}", where=path, fix="use ids 0 to 65535"
        )
    return raw.astype(np.uint16)


def _png_header(data: bytes, path: Path) -> tuple[int, int] | tuple[None, None]:
    """Bits per channel and colour type of a PNG file, nothing for any other."""
    if not data.startswith(_PNG) or len(data) < 26:
        return None, None
    if data[12:16] != b"IHDR":  # PIL finds it elsewhere too, and would make 8 bits of 16
        raise SegueError("the header does not come first", where=path, fix="store it as PNG anew")
    return data[24], data[25]


def _read_bytes(path: Path) -> bytes:
    with _openable(path), opened(path) as file:
        size, _ = state(path)
        if size > MOST_BYTES:
            raise SegueError(
                f"the file is too large to open safely ({size / 2**20:,.0f} MiB)",
                where=path,
                fix="cut it into smaller images",
            )
        data = file.read()
    if not data:
        raise _empty(path)
    return data


def _empty(path: Path) -> SegueError:
    return SegueError("the file is empty (0 bytes)", where=path, fix="copy or download it again")


@contextmanager
def _openable(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into an error for the user."""
    try:
        yield
    except FileNotFoundError as error:
        raise SegueError("no such file", where=path, fix="check the dataset's folder") from error
    except OSError as error:
        raise SegueError(
            f"cannot be opened ({error.strerror or error})", where=path, fix="check the file"
        ) from error


@contextmanager
def _readable(where: object) -> Iterator[None]:
    """Turns what a decoder refuses into an error for the user."""
    try:
        yield
    except SegueError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SegueError(
            f"the image is too large to open safely ({error})",
            where=where,
            fix="cut it into smaller images",
        ) from error
    except UnidentifiedImageError as error:
        raise SegueError(
            "not an image", where=where, fix="remove the file or replace it by an image"
        ) from error
    # Decoders raise whatever a damaged file leads them to: OSError, IndexError, zlib's own, ...
    except Exception as error:
        raise SegueError(
            f"the image is truncated or damaged ({error or type(error).__name__})",
            where=where,
            fix="copy or download it again",
        ) from error
