"""Image files as upright RGB of 8 bits, whatever they store."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.datasets.depth import Deep
from segue.datasets.picture_files import (
    Storage,
    opened_picture,
    orientation_of,
    storage_of,
    stored,
    turned,
)
from segue.errors import SegueError

_END = b"\xff\xd9"  # of a JPEG
_TAIL = 4  # bytes at the end of a JPEG without its marker that must have mattered
_FILLINGS = (bytes([0x55, 0xAA, 0x6D, 0x12]) * 64, bytes([0xAA, 0x55, 0x92, 0xED]) * 64)
_NO_RGB = ("LAB", "HSV")  # Pillow makes no RGB of them


def decode_picture(data: bytes, where: object) -> NDArray[np.uint8] | Deep:
    """The picture in the bytes of a file, upright: RGB [H, W, 3], or what is to become it.

    Grey, palette, CMYK and transparent pictures are converted as Pillow does, which drops alpha. Of
    several pictures in a file the first one counts. What has more than 8 bits comes as it is
    stored.

    Args:
        data: the file.
        where: what errors call it.

    Raises:
        SegueError: the file is truncated, no image, too large, or of a depth that is not read.
    """
    with opened_picture(data, where) as image:
        storage = storage_of(image, data, where)
        if storage.bits > 8:
            return _deep(image, data, storage, where)
        if image.mode in _NO_RGB or storage.kind == "signed":
            raise SegueError(
                f"colours of mode {image.mode} ({storage}) are not read",
                where=where,
                fix="store it as an RGB image",
            )
        try:
            image.load()
        except OSError:
            whole = _without_end(data) if storage.format == "JPEG" else None
            if whole is None:
                raise
            return turned(whole, orientation_of(image))
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """RGB [H, W, 3] of a decoded picture of 8 bits, turned as its EXIF says."""
    return turned(np.asarray(image.convert("RGB")), orientation_of(image))


def _deep(image: Image.Image, data: bytes, storage: Storage, where: object) -> Deep:
    values = stored(image, data, storage, where)
    if values.ndim == 3:
        values = values[..., 0] if values.shape[2] == 2 else values[..., :3]
    if storage.format in ("PGM", "PPM"):
        values = values.astype(np.uint16)
    if storage.inverted:
        if storage.white is None:
            raise SegueError(
                f"0 is white in this file ({storage})", where=where, fix="store it as PNG"
            )
        values = storage.white - values
    kind = "" if storage.kind == "unsigned" else f" {storage.kind}"
    return Deep(values, f"{storage.bits} bit{kind}", storage.white, where)


def _without_end(data: bytes) -> NDArray[np.uint8] | None:
    """The picture of a JPEG that lacks its end marker and nothing else; None where more is lost.

    A decoder fills up what is missing without a word. So other bytes after the end must change
    nothing, and other bytes in place of the last ones something. Only one scan tells: later ones
    of a progressive file refine the picture, and nobody misses them.
    """
    if not _one_scan(data):
        return None
    # Half a marker, or a byte that was to be followed by 0.
    kept, shorter = data.rstrip(b"\xff"), data[:-_TAIL].rstrip(b"\xff")
    whole, other = _decoded(kept + _END), _decoded(shorter + _FILLINGS[0] + _END)
    if whole is None or other is None or (whole == other).all():
        return None
    for filling in _FILLINGS:
        longer = _decoded(kept + filling + _END)
        if longer is None or (whole != longer).any():
            return None
    return whole


def _one_scan(data: bytes) -> bool:
    """Whether a JPEG is sequential, and has one scan with all its components and restarts."""
    at, components, blocks, interval = 2, 0, 0, 0
    while at + 16 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1):
            components, blocks = data[at + 9], _blocks(data[at + 5 : at + 2 + length])
        if marker == 0xDD:
            interval = int.from_bytes(data[at + 4 : at + 6], "big")
        if marker == 0xDA:
            markers = re.findall(rb"\xff[^\x00\xff]", data[at + 2 + length :])
            restarts = -(-blocks // interval) - 1 if interval else 0
            alone = all(0xD0 <= one[1] <= 0xD7 for one in markers) and len(markers) == restarts
            return data[at + 4] == components > 0 and alone
        at += 2 + length
    return False


def _blocks(frame: bytes) -> int:
    """How many blocks, which hold all components, a scan of this frame has."""
    height, width = int.from_bytes(frame[:2], "big"), int.from_bytes(frame[2:4], "big")
    samplings = list(frame[6::3]) if frame[4] > 1 else [0x11]
    across = 8 * max(one >> 4 for one in samplings)
    down = 8 * max(one & 15 for one in samplings)
    return -(-width // across) * -(-height // down)


def _decoded(data: bytes) -> NDArray[np.uint8] | None:
    try:
        with opened_picture(data, "") as image:
            image.load()
            return np.asarray(image.convert("RGB"))
    except SegueError:
        return None
