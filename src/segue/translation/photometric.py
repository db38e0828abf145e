"""Photometric alignment in Lab: histograms matched, lightness brought to the other's mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.errors import SegueError
from segue.translation.lab import Pixels, from_lab, to_lab

Scheme = Literal["hybrid", "gamma", "histogram"]

# Levels of a Lab channel, whose values lie within -128 to 128.
_PER_UNIT = 256
_GAMMA_LEVELS = 4096

LEAST_GAMMA = 0.01
_LEVELS = np.arange(-128 * _PER_UNIT, 128 * _PER_UNIT + 1) / _PER_UNIT


@dataclass(frozen=True, kw_only=True)
class Photometric:
    """A source image in the colours and the lightness of a target image.

    Coarse-to-fine (CVPR 2021), section 3.2, global photometric alignment: in Lab, a and b by
    histogram matching, L by gamma correction (equation 2).

    Args:
        scheme: `hybrid` is the paper's; `gamma` corrects all three channels, a and b shifted to
            0 to 1 as (a + 128) / 255; `histogram` matches all three (both of table 4).
        beta: how strongly gamma is drawn to 1.

    Raises:
        SegueError: beta is not positive.

    Example:
        >>> source, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 6) / 2
        >>> bool(Photometric()(source, target).mean() < source.mean())
        True
    """

    scheme: Scheme = "hybrid"
    beta: float = 0.01

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise SegueError(f"{self.beta} will not do", where="beta", fix="use more than 0")

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """[B, 3, H, W] of source images [B, 3, H, W] and target images [B, 3, h, w], 0 to 1."""
        aligned = [
            torch.from_numpy(self._align(_pixels(one), _pixels(other)))
            for one, other in zip(source, target, strict=True)
        ]
        return torch.stack(aligned).to(source)

    def _align(self, source: Pixels, target: Pixels) -> Pixels:
        lab, reference = to_lab(source), to_lab(target)
        for index, (one, other) in enumerate(zip(lab, reference, strict=True)):
            lab[index] = self._channel(index, one, other)
        return from_lab(lab)

    def _channel(self, index: int, source: Pixels, target: Pixels) -> Pixels:
        lightness = index == 0
        if self.scheme == "histogram" or (self.scheme == "hybrid" and not lightness):
            return match_histogram(source, target)
        low, span = (0, 100) if lightness else (-128, 255)
        return _correct(source, target, low, span, self.beta)


def _pixels(image: Tensor) -> Pixels:
    """A tensor [3, H, W] as an array."""
    return np.ascontiguousarray(image.detach().float().cpu().numpy())


def match_histogram(source: Pixels, target: Pixels) -> Pixels:
    """A channel of Lab [H, W] with each value at the place of its rank in the other's [h, w].

    Gonzalez and Woods, Digital Image Processing, histogram specification: a value goes to the
    quantile of the target at the share of source pixels that are not above it, interpolated
    between the target's values. Values are counted in steps of 1/256, by which images differ from
    exact matching by less than 0.1 of 255 on average.

    Differs: in a channel of one value, a and b of a grey image, it becomes the target's median,
    where the rule would give all pixels the target's most extreme one.

    Example:
        >>> source = np.array([[0, 1, 2, 3]], np.float32)
        >>> match_histogram(source, source[:, ::-1] * 10).tolist()
        [[0.0, 10.0, 20.0, 30.0]]
    """
    level, other = _level(source), _level(target)
    counts = np.bincount(level.ravel(), minlength=len(_LEVELS))
    others = np.bincount(other.ravel(), minlength=len(_LEVELS))
    share, there = np.cumsum(counts) / level.size, others > 0
    if counts.max() == level.size:
        share = np.full_like(share, 0.5)
    quantiles = np.cumsum(others)[there] / other.size
    matched = np.interp(share, quantiles, _LEVELS[there]).astype(np.float32)
    return np.take(matched, level)


def _level(channel: Pixels) -> NDArray[np.int32]:
    # Truncation of what is never negative: rounding to the nearest level.
    scaled = channel * np.float32(_PER_UNIT)
    scaled += np.float32(128 * _PER_UNIT + 0.5)
    return scaled.astype(np.int32)


def _correct(source: Pixels, target: Pixels, low: float, span: float, beta: float) -> Pixels:
    """A channel [H, W] raised to the power that `fit_gamma` finds, as (value - low) / span."""
    channel = np.clip((source - np.float32(low)) / np.float32(span), 0, 1)
    # Levels are closest where it is darkest, for there a power changes most.
    level = (cv2.sqrt(channel) * np.float32(_GAMMA_LEVELS)).astype(np.int32).ravel()
    counts = np.bincount(level)
    means = np.bincount(level, weights=channel.ravel())[counts > 0] / counts[counts > 0]
    mean = (float(target.mean(dtype=np.float64)) - low) / span
    channel = cv2.pow(channel, fit_gamma(means, counts[counts > 0], mean, beta))
    return np.asarray(channel * np.float32(span) + np.float32(low), np.float32)


def fit_gamma(
    levels: NDArray[np.float64], counts: NDArray[np.int64], mean: float, beta: float = 0.01
) -> float:
    """The gamma from 0.01 on that minimises (mean of levels^gamma - mean)^2 + beta (gamma - 1)^2.

    Coarse-to-fine (CVPR 2021), equation 2. It is solved, by Newton's method between neighbours of
    the best of a grid: where the source must become lighter it need not be convex.

    Args:
        levels: [N] values from 0 to 1.
        counts: [N] pixels of each.
        mean: of the target's pixels, 0 to 1.
        beta: weight of the second term, more than 0.

    Example:
        >>> round(fit_gamma(np.array([0.2, 0.6]), np.array([1, 1]), mean=0.3), 4)
        1.3213
    """
    light = levels > 0
    logs, shares = np.log(levels[light]), counts[light] / counts.sum()

    def reached(gamma: float) -> NDArray[np.float64]:
        return np.asarray(shares * np.exp(gamma * logs))

    gap = float(shares @ levels[light]) - mean
    # Further away the second term alone is more than the whole at gamma = 1.
    reach = math.copysign(abs(gap) / math.sqrt(beta), gap)
    grid = np.linspace(1, max(1 + reach, LEAST_GAMMA), 33)
    values = [(reached(g).sum() - mean) ** 2 + beta * (g - 1) ** 2 for g in grid]
    best = int(np.argmin(values))
    low, high = sorted((grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]))
    gamma = float(grid[best])
    for _ in range(60):
        powers = reached(gamma)
        over, slope = powers.sum() - mean, powers @ logs
        first = over * slope + beta * (gamma - 1)
        second = slope**2 + over * (powers @ logs**2) + beta
        low, high = (low, gamma) if first > 0 else (gamma, high)
        step = gamma - first / second if second > 0 else math.nan
        step = step if low <= step <= high else (low + high) / 2
        if abs(step - gamma) < 1e-12:
            break
        gamma = step
    return float(gamma)
