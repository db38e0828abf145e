"""Label files: their pixels exactly as stored; what cannot be had so is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.datasets.picture_files import (
    Storage,
    inexact,
    opened_picture,
    storage_of,
    stored,
)
from segue.errors import SegueError

# Formats that change values, or show others than they hold.
_LOSSY = {
    "JPEG": "a JPEG",
    "MPO": "an MPO file (JPEG)",
    "JPEG 2000": "JPEG 2000",
    "GIF": "a GIF",
}
_LOSSLESS_TIFF = ("none", "CCITT", "LZW", "PackBits", "deflate", "LZMA", "Zstandard")
_STORE = "store PNG labels"


@dataclass(frozen=True, eq=False)
class LabelPixels:
    """What a label file holds.

    Args:
        values: integers [H, W], or [H, W, C] of colour files: grey and alpha, RGB, or RGB and
            alpha; upright.
        palette: RGB [N, 3] of a palette image, whose values are places in it; None of others.
        bits: of a channel, as the file stores it.
    """

    values: NDArray[Any]
    palette: NDArray[np.uint8] | None
    bits: int


def decode_label(data: bytes, where: object) -> LabelPixels:
    """The pixels of a label file from its bytes, exactly as stored and turned upright.

    Read are PNG of 1 to 16 bits (grey, palette, RGB, with alpha or without), lossless WebP, BMP
    but of 16 bits, PGM and PPM of any highest value, and TIFF of 1 to 32 bit integers without
    lossy compression.

    Raises:
        SegueError: the format changes values (JPEG, JPEG 2000, lossy WebP, JPEG inside TIFF, ...),
            holds no integers, calls 0 white (of which programs make either), holds several
            pictures, or the file is truncated, no image or too large.
    """
    with opened_picture(data, where) as image:
        storage = storage_of(image, data, where)
        _refuse_changed(storage, where)
        _refuse_several(image, storage, where)
        values = stored(image, data, storage, where)
        palette = _palette(image)
    return LabelPixels(values, palette, storage.bits)


def _refuse_changed(storage: Storage, where: object) -> None:
    if storage.format in _LOSSY:
        told = f"{_LOSSY[storage.format]} cannot hold class ids, it changes them"
        raise SegueError(told, where=where, fix=_STORE)
    if storage.format == "WebP" and storage.compression != "lossless":
        told = "a lossy WebP cannot hold class ids, it changes them"
        raise SegueError(told, where=where, fix=f"{_STORE}, or lossless WebP")
    if storage.format == "TIFF" and storage.compression not in _LOSSLESS_TIFF:
        told = f"a TIFF with compression {storage.compression} may change class ids"
        raise SegueError(told, where=where, fix=f"{_STORE}, or TIFF with LZW or deflate")
    if storage.kind == "float":
        told = f"floating point values ({storage}) are no class ids"
        raise SegueError(told, where=where, fix="store one channel of 8 or 16 bits")
    if storage.inverted:
        told = f"0 is white in this file ({storage}), of which programs make different ids"
        raise SegueError(told, where=where, fix=_STORE)
    if storage.kind == "signed" and storage.bits == 8:
        raise inexact(storage, where)
    if storage.format == "BMP" and storage.bits < 8:
        told = "a BMP of 16 bits holds 5 or 6 bits of each colour, and shows others"
        raise SegueError(told, where=where, fix=_STORE)


def _refuse_several(image: Image.Image, storage: Storage, where: object) -> None:
    """Refuses several pictures of one size; smaller ones are previews of the first."""
    frames, size = getattr(image, "n_frames", 1), image.size
    if frames == 1:
        return
    image.seek(1)
    second = image.size
    image.seek(0)
    if storage.format != "TIFF" or second == size:
        raise SegueError(
            f"holds {frames} pictures ({storage.format})", where=where, fix="store each by itself"
        )


def _palette(image: Image.Image) -> NDArray[np.uint8] | None:
    if image.mode != "P":
        return None
    colours = np.array(image.getpalette("RGB"), np.uint8)
    return colours.reshape(-1, 3)
