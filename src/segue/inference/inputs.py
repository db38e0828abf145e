"""Images in any form that people have them in, as upright RGB of 8 bits."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch import Tensor

from segue.datasets.depth import Deep, Range
from segue.datasets.image_files import upright_rgb
from segue.datasets.picture_files import FORMATS, orientation_of, readable, storage_of, turned
from segue.datasets.reading import decode_image, read_image
from segue.errors import SegueError

Picture = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | Image.Image
    | NDArray[Any]
    | Tensor
)

KINDS = "a path, the bytes of a file, an open file, a Pillow image, an array or a tensor"
_CONVERT = "convert it to uint8, uint16, or floats of 0 to 1"


def as_array(image: Picture, range_: Range | None = None) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3] of an image in any of its forms.

    Files, and Pillow images, are turned as their EXIF says. Arrays are [H, W], [H, W, 1],
    [H, W, 3] or [H, W, 4], tensors [H, W], [1, H, W], [3, H, W] or [4, H, W]; a fourth channel is
    left out. Of 8 bits they are taken as they are, of 16 bits and floats by the rule for files
    (`segue.datasets.depth`): floats go from 0 to 1, or by the range.

    Args:
        image: what the image is in.
        range_: what is black and white in images of more than 8 bits.

    Raises:
        SegueError: it is none of these, of another shape or kind of numbers, or a file that cannot
            be read.

    Example:
        >>> as_array(torch.full((1, 2, 4), 0.2)).shape
        (2, 4, 3)
        >>> as_array(np.full((2, 4), 65535, np.uint16))[0, 0].tolist()
        [255, 255, 255]
    """
    if isinstance(image, str | os.PathLike):
        return np.array(read_image(Path(image), range_))
    if isinstance(image, bytes | bytearray | memoryview):
        return np.array(decode_image(bytes(image), "image (bytes)", range_))
    if isinstance(image, Image.Image):
        return _of_pillow(image, range_)
    if isinstance(image, Tensor):
        return _of_tensor(image, range_)
    if isinstance(image, np.ndarray):
        return _of_array(image, range_)
    read = getattr(image, "read", None)
    if callable(read):
        return _of_file(image, read, range_)
    raise SegueError(f"{type(image).__name__} is no image", where="image", fix=f"give {KINDS}")


def _of_file(file: object, read: Callable[[], object], range_: Range | None) -> NDArray[np.uint8]:
    name = getattr(file, "name", None)
    where = name if isinstance(name, str) else "image (open file)"
    try:
        data = read()
    except (OSError, ValueError) as error:  # UnicodeDecodeError is one
        fix = "open it with 'rb', and at its start"
        raise SegueError(f"cannot be read ({error})", where=where, fix=fix) from error
    if not isinstance(data, bytes):
        told = f"gives {type(data).__name__}, not bytes"
        raise SegueError(told, where=where, fix="open it with 'rb'")
    return np.array(decode_image(data, where, range_))


def _of_pillow(image: Image.Image, range_: Range | None) -> NDArray[np.uint8]:
    where = getattr(image, "filename", "") or "image (Pillow)"
    if not image.width or not image.height:
        raise SegueError("has no pixels", where=where, fix="give an image")
    data = _untouched(image)
    if data is not None:
        with suppress(Exception):
            image.load()  # its file is closed then, as by any other use
        return np.array(decode_image(data, where, range_))
    with readable(where):
        image.load()
        if image.mode.startswith("I") or image.mode == "F":
            return _deep_pillow(image, where).rgb(range_)
        return upright_rgb(image)


def _untouched(image: Image.Image) -> bytes | None:
    """The file of a Pillow image that is open but not decoded: Pillow keeps 8 of its bits."""
    if not isinstance(image, ImageFile.ImageFile) or image.format not in (*FORMATS, "MPO"):
        return None
    file = image.fp
    if not image.tile or file is None or image.tell() != 0:
        return None
    try:
        at = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(at)
        with Image.open(io.BytesIO(data), formats=FORMATS) as again:
            same = (again.size, again.mode) == (image.size, image.mode)  # else it is a draft
    except (OSError, ValueError):
        return None
    return data if same else None


def _deep_pillow(image: Image.Image, where: object) -> Deep:
    """What is left of the depth in a decoded Pillow image."""
    values: NDArray[Any] = np.asarray(image)
    values = values.astype(values.dtype.newbyteorder("="))
    turned_values = turned(values, orientation_of(image))
    if image.format == "PPM" and image.mode == "I":
        told = "Pillow has changed the values of this PGM file to 16 bits"
        raise SegueError(told, where=where, fix="give its path")
    if image.mode == "F":
        return Deep(turned_values, "32 bit float", None, where)
    if image.mode == "I":
        return Deep(turned_values, "32 bit signed", None, where, _CONVERT)
    white = 65535
    if image.format == "TIFF":
        storage = storage_of(image, b"", where)
        white = storage.white or white
        if storage.inverted:
            turned_values = white - turned_values
    return Deep(turned_values, "16 bit", white, where)


def _of_tensor(image: Tensor, range_: Range | None) -> NDArray[np.uint8]:
    where, shape = "image (tensor)", tuple(image.shape)
    if image.ndim == 4:
        raise _batch(shape, where)
    if image.ndim not in (2, 3) or (image.ndim == 3 and shape[0] not in (1, 3, 4)):
        hint = "; turn channels to the front" if image.ndim == 3 and shape[-1] in (1, 3, 4) else ""
        fix = f"give [H, W], [1, H, W], [3, H, W] or [4, H, W]{hint}"
        raise SegueError(f"a tensor of shape {list(shape)} is no image", where=where, fix=fix)
    plain = image.detach()
    if plain.is_complex() or plain.is_quantized or plain.layout != torch.strided:
        raise SegueError(f"a tensor of {image.dtype} is no image", where=where, fix=_CONVERT)
    if plain.device.type == "meta":
        raise SegueError("a tensor without values", where=where, fix="give one on a device")
    if plain.dtype == torch.bfloat16:
        plain = plain.float()
    values = plain.cpu().numpy()
    return _numbers(values if values.ndim == 2 else values.transpose(1, 2, 0), range_, where)


def _of_array(image: NDArray[Any], range_: Range | None) -> NDArray[np.uint8]:
    where, shape = "image (array)", tuple(image.shape)
    if image.ndim == 4:
        raise _batch(shape, where)
    if image.ndim not in (2, 3) or (image.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = "; turn channels to the end" if image.ndim == 3 and shape[0] in (1, 3, 4) else ""
        fix = f"give [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]{hint}"
        raise SegueError(f"an array of shape {list(shape)} is no image", where=where, fix=fix)
    return _numbers(image, range_, where)


def _batch(shape: tuple[int, ...], where: str) -> SegueError:
    return SegueError(f"{list(shape)} is a batch", where=where, fix="give a list of images")


def _numbers(values: NDArray[Any], range_: Range | None, where: str) -> NDArray[np.uint8]:
    """Numbers [H, W] or [H, W, C] as RGB of 8 bits."""
    if not values.size:
        raise SegueError("has no pixels", where=where, fix="give an image")
    if values.dtype.kind not in "uif":
        raise SegueError(f"numbers of kind {values.dtype} are no image", where=where, fix=_CONVERT)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim == 3:
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]
    if values.dtype == np.uint8:
        found = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
        return np.ascontiguousarray(found)
    kind = {"u": "", "i": " signed", "f": " float"}[values.dtype.kind]
    white = 65535 if values.dtype == np.uint16 else None
    depth = f"{8 * values.dtype.itemsize} bit{kind}"
    return Deep(values, depth, white, where, _CONVERT).rgb(range_)
