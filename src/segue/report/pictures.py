"""Pictures as addresses that hold them whole, small enough for many on one page."""

from __future__ import annotations

import base64
import io

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.datasets.dataset import resize_label
from segue.label_space import IGNORE, LabelSpace

WIDEST = 1024  # pixels of a picture; screens show it at half of that
QUALITY = 82  # of photographs
SHADES = 48  # of an entropy map: more make a file larger and nothing plainer
COLOURED = 0.6  # how much the colours of classes cover an image
Picture = NDArray[np.uint8]


def data_uri(pixels: Picture) -> str:
    """Packs a uint8 [H, W, 3] RGB picture into a URI, exactly where it has up to 256 colours.

    Label maps become palette PNGs, photographs WebP.

    Example:
        >>> data_uri(np.zeros((4, 8, 3), np.uint8))[:22]
        'data:image/png;base64,'
    """
    photograph, file = Image.fromarray(pixels), io.BytesIO()
    counted = photograph.getcolors(256)  # None where there are more
    if counted is not None:
        palette = np.array(sorted(colour for _, colour in counted), np.uint8)
        index = np.searchsorted(_packed(palette), _packed(pixels)).astype(np.uint8)
        picture = Image.fromarray(index)
        picture.putpalette(palette.tobytes())
        picture.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        photograph.save(file, "WEBP", quality=QUALITY)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """A number for each colour [..., 3], in the order of colours."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    packed: NDArray[np.uint32] = red << 16 | green << 8 | blue
    return packed


def shown_size(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height at which an image or label map [H, W, ...] is put on a page.

    Example:
        >>> shown_size(np.zeros((1024, 2048, 3), np.uint8)), shown_size(np.zeros((5, 9), np.uint8))
        ((1024, 512), (9, 5))
    """
    height, width = pixels.shape[:2]
    narrower = min(width, WIDEST)
    return narrower, max(1, round(height * narrower / width))


def smaller(image: Picture, size: tuple[int, int]) -> Picture:
    """An RGB image [H, W, 3] at `size` (width, height)."""
    if size == (image.shape[1], image.shape[0]):
        return image
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def coloured(label: Picture, space: LabelSpace, size: tuple[int, int]) -> Picture:
    """Train ids [H, W] in their classes' colours at `size` (width, height)."""
    return space.colour(resize_label(label, size))


def laid_over(image: Picture, label: Picture, space: LabelSpace) -> Picture:
    """A label's colours over its image [H, W, 3]; what has no label is grey and dark."""
    mixed = (1 - COLOURED) * image + COLOURED * space.colour(label)
    grey = image.mean(-1, keepdims=True).repeat(3, -1) / 2
    return np.where((label == IGNORE)[..., None], grey, mixed).round().astype(np.uint8)


def glow(values: NDArray[np.float32]) -> Picture:
    """Values [H, W] from 0 to 1 as colours, dark to bright."""
    steps = (values.clip(0, 1) * (SHADES - 1)).round() / (SHADES - 1)
    return np.asarray(mpl.colormaps["inferno"](steps, bytes=True)[..., :3], np.uint8)
