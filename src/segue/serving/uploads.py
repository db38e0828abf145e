"""Images from elsewhere: read in pieces, measured, and refused before they can do harm."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Message

from segue.datasets.depth import Range
from segue.datasets.reading import decode_image
from segue.errors import SegueError, printable

FIELD = "image"  # of the form
# What browsers show too; decoders of rarer formats are not for files from elsewhere.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
NAMES = "JPEG, PNG, WebP, BMP or GIF"
ENVELOPE = 16 * 2**10  # bytes of a form around its file
PATIENCE = 60.0  # seconds that an upload may take


@dataclass(frozen=True)
class Limits:
    """What is taken of those who send images.

    Args:
        megabytes: of a file.
        megapixels: of an image.
        waiting: images that are sent, wait or are worked on at once.
        together: images of a batch.
    """

    megabytes: float = 20
    megapixels: float = 25
    waiting: int = 16
    together: int = 4


class RefusalError(Exception):
    """A request that is not answered, with its HTTP status and one line that says why."""

    def __init__(self, status: int, what: str, *, after: float | None = None) -> None:
        self.status, self.after = status, after
        super().__init__(printable(what))


@dataclass
class Room:
    """Counts those who are inside, and turns others away.

    Args:
        most: inside at once.
    """

    most: int
    inside: int = field(default=0, init=False)

    @contextmanager
    def entered(self, after: float) -> Iterator[None]:
        """Holds a place; where none is free, says to come again `after` seconds.

        Raises:
            RefusalError: all places are taken.
        """
        if self.inside >= self.most:
            told = f"busy: {self.inside} images are waiting; try again in a moment"
            raise RefusalError(503, told, after=after)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


async def received(request: Request, limits: Limits) -> tuple[bytes, str]:
    """The file of a form and its name, never more of it in memory than the limit allows.

    Raises:
        RefusalError: it is larger, takes too long, or is no form with a file.
    """
    most = int(limits.megabytes * 1e6)
    too_large = f"the file is larger than {limits.megabytes:g} MB; send a smaller one"
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most + ENVELOPE:
        raise RefusalError(413, too_large)
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > most + ENVELOPE:
            raise RefusalError(413, too_large)
        return message

    try:
        async with (
            asyncio.timeout(PATIENCE),
            Request(request.scope, receive).form(max_files=1, max_fields=1) as form,
        ):
            file = form.get(FIELD)
            if not isinstance(file, UploadFile):
                told = f"no file; send a form (multipart/form-data) with the field `{FIELD}`"
                raise RefusalError(422, told)
            data, name = await file.read(), file.filename or "image"
    except TimeoutError as error:
        raise RefusalError(408, f"the upload took longer than {PATIENCE:g} seconds") from error
    if len(data) > most:
        raise RefusalError(413, too_large)
    return data, name


def decoded(
    data: bytes, name: str, limits: Limits, range_: Range | None = None
) -> NDArray[np.uint8]:
    """RGB [H, W, 3] of an image file, upright as its EXIF says, as viewers and browsers show it.

    Raises:
        RefusalError: it is no image of `FORMATS`, too large or damaged.
    """
    width, height = _size(data, name)
    if width * height > limits.megapixels * 1e6:
        told = f"{name}: {width}x{height} pixels are more than {limits.megapixels:g} megapixels"
        raise RefusalError(413, f"{told}; send a smaller image")
    try:
        return np.array(decode_image(data, name, range_))
    except SegueError as error:
        raise RefusalError(422, str(error)) from error


def _size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height, from the header alone."""
    if not data:
        raise RefusalError(422, f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusalError(413, f"{name}: too many pixels; send a smaller image") from error
    except UnidentifiedImageError as error:
        raise RefusalError(415, f"{name}: no image that is known here; send {NAMES}") from error
    # Decoders raise whatever a damaged file leads them to.
    except Exception as error:
        raise RefusalError(422, f"{name}: the image is damaged") from error
