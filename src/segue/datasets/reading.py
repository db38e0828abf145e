"""Reads image and label files, and says what is wrong with those that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.datasets.depth import Deep, Range
from segue.datasets.files import opened, state
from segue.datasets.image_files import decode_picture
from segue.datasets.label_files import LabelPixels, decode_label
from segue.datasets.picture_files import FORMATS, readable, upright_size
from segue.errors import SegueError

# The largest image that PIL opens without a word, four channels of 16 bits: a small ZIP file may
# unpack to anything.
MOST_BYTES = 8 * 89_478_485


def read_image(path: Path, range_: Range | None = None) -> Image.Image:
    """The image as upright RGB of 8 bits, as `decode_picture` and `segue.datasets.depth` say.

    Args:
        path: the file, which may lie in a ZIP file.
        range_: what is black and white in pictures of more than 8 bits; None: by their depth.

    Raises:
        SegueError: the file is missing, empty, truncated, no image, too large, or of a depth that
            is not read.
    """
    return decode_image(_read_bytes(path), path, range_)


def decode_image(data: bytes, where: object, range_: Range | None = None) -> Image.Image:
    """The image in the bytes of a file, as `read_image` gives it.

    Args:
        data: the file.
        where: what errors call it.
        range_: as for `read_image`.

    Raises:
        SegueError: the file is empty, truncated, no image, too large, or of a depth that is not
            read.
    """
    if not data:
        raise _empty(where)
    picture = decode_picture(data, where)
    return Image.fromarray(picture.rgb(range_) if isinstance(picture, Deep) else picture)


def read_picture(path: Path) -> NDArray[np.uint8] | Deep:
    """The image before its depth is changed, as `decode_picture` gives it.

    Raises:
        SegueError: as for `read_image`.
    """
    return decode_picture(_read_bytes(path), path)


def read_image_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, mostly from the header alone.

    Raises:
        SegueError: the file is missing, empty, no image or too large.
    """
    with _openable(path), opened(path) as file:
        if not file.read(1):
            raise _empty(path)
        file.seek(0)
        with readable(path), Image.open(file, formats=FORMATS) as image:
            return upright_size(image, file)


def read_label_pixels(path: Path) -> LabelPixels:
    """The pixels of a label file exactly as stored, as `decode_label` says.

    Raises:
        SegueError: the file is missing, empty, truncated, too large, or not read exactly.
    """
    return decode_label(_read_bytes(path), path)


def read_raw_label(path: Path) -> NDArray[np.uint16]:
    """The ids [H, W] of a label file.

    A palette image gives its indices, a grey one of 1 to 32 bits its values, and a colour one
    (SYNTHIA's with 16 bits, CARLA's with 8) its first channel, red, where the others can be told
    from a picture.

    Raises:
        SegueError: the file is missing, empty, truncated, too large, or holds no ids.
    """
    pixels = read_label_pixels(path)
    raw = pixels.values
    if raw.ndim == 3:
        red, others = raw[..., 0], raw[..., 1:3]
        colour = raw.shape[2] >= 3 and pixels.bits == 8
        if colour and others.any() and not (others == red[..., None]).all():
            raise SegueError(
                "the label is a colour picture, not class ids",
                where=path,
                fix="store one channel whose values are the ids",
            )
        raw = red
    if raw.dtype.kind == "i" and (raw.min() < 0 or raw.max() > 65535):
        raise SegueError(
            f"ids reach from {raw.min()} to {raw.max()}", where=path, fix="use ids 0 to 65535"
        )
    return raw.astype(np.uint16)


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


def _empty(path: object) -> SegueError:
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
