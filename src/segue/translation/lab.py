"""RGB and Lab, both ways: CIE 1976 L*a*b* of sRGB under D65, by tables of 65536 values.

OpenCV's own way from sRGB is up to 0.5 off and gives grey pixels a colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
Levels = NDArray[np.uint16]

# Levels of a channel of Lab, by which 0 is level ZERO, and their values.
PER_UNIT = 256
ZERO = 32768
VALUES: Pixels = ((np.arange(65536) - ZERO) / PER_UNIT).astype(np.float32)

TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
TO_XYZ = TO_XYZ / TO_XYZ.sum(1, keepdims=True)  # of white's, so that grey has no colour at all

_STEPS = 65535  # 257 times 255: the values of 8-bit images fall on steps
_ROWS = 64  # at once, so that what comes between stays in the cache


def _tables() -> tuple[Levels, Levels, Pixels]:
    """In steps: light of sRGB, the f of Lab's definition; then sRGB, 0 to 1, of light."""
    value = np.arange(_STEPS + 1) / _STEPS
    light = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    root = np.where(value > (6 / 29) ** 3, np.cbrt(value), value * (29 / 6) ** 2 / 3 + 4 / 29)
    shown = np.where(value > 0.0031308, 1.055 * value ** (1 / 2.4) - 0.055, 12.92 * value)
    steps = [np.rint(one * _STEPS).astype(np.uint16) for one in (light, root)]
    return steps[0], steps[1], shown.astype(np.float32)


_LIGHT, _ROOT, _SHOWN = _tables()
# Levels of L, a and b are this times the roots of X, Y and Z, in steps, and 1.
_TO_LEVELS = np.array([[0, 116, 0, -16], [500, -500, 0, 0], [0, 200, -200, 0]]) * PER_UNIT
_TO_LEVELS = _TO_LEVELS * [1 / _STEPS, 1 / _STEPS, 1 / _STEPS, 1] + [0, 0, 0, ZERO]


def to_lab(rgb: Pixels) -> Levels:
    """Lab [3, H, W] of sRGB [3, H, W], 0 to 1: in steps of 1/256, level 32768 being 0.

    At most 0.1 off the formula with the white point (0.95046, 1, 1.08875).

    Example:
        >>> VALUES[to_lab(np.ones((3, 1, 1), np.float32))].ravel().tolist()
        [100.0, 0.0, 0.0]
    """
    lab = np.empty(rgb.shape, np.uint16)
    for rows in _bands(rgb.shape):
        light = cv2.LUT(cv2.merge([_in_steps(one) for one in rgb[:, rows]]), _LIGHT)
        roots = cv2.LUT(cv2.transform(light, TO_XYZ), _ROOT)
        cv2.split(cv2.transform(roots, _TO_LEVELS), [*lab[:, rows]])
    return lab


def from_lab(
    lab: Levels,
    values: Sequence[Pixels] = (VALUES, VALUES, VALUES),
    out: Pixels | None = None,
) -> Pixels:
    """sRGB [3, H, W] of levels of Lab [3, H, W]; what sRGB cannot show is cut off at 0 and 1.

    At most 0.2 of 255 off the formula.

    Args:
        lab: as `to_lab` returns it.
        values: for each channel the values [65536] that its levels stand for.
        out: what is written to and returned; left out, it is made.

    Example:
        >>> from_lab(to_lab(np.ones((3, 1, 1), np.float32))).ravel().tolist()
        [1.0, 1.0, 1.0]
    """
    rgb = np.empty(lab.shape, np.float32) if out is None else out
    for rows in _bands(lab.shape):
        channels = [cv2.LUT(*one) for one in zip(lab[:, rows], values, strict=True)]
        light = cv2.cvtColor(cv2.merge(channels), cv2.COLOR_Lab2LRGB)
        for channel, shown in zip(cv2.split(_in_steps(light)), rgb[:, rows], strict=True):
            cv2.LUT(channel, _SHOWN, shown)
    return rgb


def _in_steps(values: Pixels) -> Levels:
    """Values 0 to 1 rounded to steps; what is beyond is cut off."""
    steps = cv2.addWeighted(values, _STEPS, values, 0, 0, dtype=cv2.CV_16U)
    return np.asarray(steps, np.uint16)


def _bands(shape: tuple[int, ...]) -> list[slice]:
    return [slice(top, top + _ROWS) for top in range(0, shape[1], _ROWS)]
