"""RGB and Lab, both ways: CIE 1976 L*a*b* of sRGB under D65.

OpenCV's conversion between linear RGB and Lab, after an sRGB curve of our own: OpenCV's short cut
from sRGB is up to 0.5 off and gives grey pixels a colour.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]

_STEPS = 65535  # 257 times 255: the values of 8-bit images fall on steps
_ROWS = 32  # at once, so that what comes between stays in the cache


def _srgb_curve() -> Pixels:
    value = np.arange(_STEPS + 1) / _STEPS
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    return linear.astype(np.float32)


_LINEAR = _srgb_curve()


def to_lab(rgb: Pixels) -> Pixels:
    """Lab [3, H, W] of sRGB [3, H, W], 0 to 1: L 0 to 100, a and b within -128 to 127.

    At most 0.04 off the formula with the white point (0.95047, 1, 1.08883).

    Example:
        >>> to_lab(np.ones((3, 1, 1), np.float32)).ravel().round(3).tolist()
        [100.0, 0.0, 0.0]
    """
    lab = np.empty(rgb.shape, np.float32)
    for rows in _bands(rgb):
        steps = cv2.merge([*rgb[:, rows]])
        steps *= np.float32(_STEPS)
        steps += np.float32(0.5)
        linear = np.take(_LINEAR, steps.astype(np.int32), mode="clip")
        cv2.split(cv2.cvtColor(linear, cv2.COLOR_LRGB2Lab), [*lab[:, rows]])
    return lab


def from_lab(lab: Pixels) -> Pixels:
    """sRGB [3, H, W] of Lab [3, H, W]; what sRGB cannot show is cut off at 0 and 1.

    At most 0.2 of 255 off the formula.

    Example:
        >>> from_lab(np.array([[[100]], [[0]], [[0]]], np.float32)).ravel().round(3).tolist()
        [1.0, 1.0, 1.0]
    """
    rgb = np.empty(lab.shape, np.float32)
    for rows in _bands(lab):
        shown = cv2.cvtColor(cv2.merge([*lab[:, rows]]), cv2.COLOR_Lab2RGB)
        cv2.split(shown, [*rgb[:, rows]])
    return rgb


def _bands(image: Pixels) -> list[slice]:
    return [slice(top, top + _ROWS) for top in range(0, image.shape[1], _ROWS)]
