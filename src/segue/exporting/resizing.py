"""Pillow's antialiased bicubic resizing in operations that ONNX knows, to the same bits."""

from __future__ import annotations

import torch
from torch import Tensor

ONE = 2**22  # Pillow's weights are whole multiples of 1 / ONE


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image [H, W, 3] at another width and height, rows first, then columns.

    Weights and sums are integers in float64, which holds them exactly, as Pillow's are; between
    the two passes values are rounded to 8 bits, as Pillow's are. Sizes may be symbols.

    Args:
        image: uint8.
        size: width and height.

    Returns:
        [3, height, width] float64 of integers 0 to 255.

    Example:
        >>> from PIL import Image
        >>> import numpy as np
        >>> image = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
        >>> wanted = Image.fromarray(image).resize((7, 5), Image.Resampling.BICUBIC)
        >>> found = resized(torch.from_numpy(image), (7, 5)).permute(1, 2, 0)
        >>> bool((found.numpy() == np.asarray(wanted)).all())
        True
    """
    width, height = size
    planes = image.permute(2, 0, 1).double()
    narrow = rounded(planes @ weights(image.shape[1], width).T)
    return rounded(weights(image.shape[0], height) @ narrow)


def weights(cells: int, wanted: int) -> Tensor:
    """How much each of `cells` counts for each of `wanted`, [wanted, cells], in units of 1 / ONE.

    Keys' cubic with a = -1/2, as wide as what it shrinks.
    """
    shrunk = torch.ones((), dtype=torch.float64) * cells / wanted
    centre = (torch.arange(wanted, dtype=torch.float64) + 0.5) * shrunk
    place = torch.arange(cells, dtype=torch.float64) + 0.5
    x = ((place - centre[:, None]) / shrunk.clamp(min=1.0)).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    cubic = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    share = cubic / cubic.sum(1, keepdim=True) * ONE
    # Halves away from zero.
    return torch.where(share < 0, (share - 0.5).ceil(), (share + 0.5).floor())


def rounded(summed: Tensor) -> Tensor:
    """Sums in units of 1 / ONE as integers 0 to 255."""
    return ((summed + ONE // 2) / ONE).floor().clamp(0, 255)
