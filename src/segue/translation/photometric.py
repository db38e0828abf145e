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
from segue.translation.lab import PER_UNIT, VALUES, ZERO, Levels, Pixels, from_lab, to_lab
from segue.translation.photometric_on_device import BINS, LEAST_GAMMA, SPANS, align

Scheme = Literal["hybrid", "gamma", "histogram"]
Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Photometric:
    """A source image in the colours and the lightness of a target image.

    Coarse-to-fine (CVPR 2021), section 3.2, global photometric alignment: in Lab, a and b by
    histogram matching, L by gamma correction (equation 2). In photographs the result is on average
    0.05 of 255 off the formulas in float64, 0.2 where few colours become many.

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
        if source.device.type != "cpu":
            return align(source, target.to(source.device), self.by_gamma, self.beta).to(source)
        aligned = torch.empty(source.shape)
        for one, other, result in zip(source, target, aligned, strict=True):
            self._align(_pixels(one), _pixels(other), result.numpy())
        return aligned.to(source)

    @property
    def by_gamma(self) -> tuple[bool, bool, bool]:
        """Which of L, a and b are corrected by gamma; the others' histograms are matched."""
        return self.scheme != "histogram", self.scheme == "gamma", self.scheme == "gamma"

    def _align(self, source: Pixels, target: Pixels, result: Pixels) -> None:
        lab, reference = to_lab(source), to_lab(target)
        values = []
        for one, other, gamma, span in zip(lab, reference, self.by_gamma, SPANS, strict=True):
            if gamma:
                mean = (cv2.mean(other)[0] - ZERO) / PER_UNIT
                values.append(correct_gamma(_count(one), VALUES, mean, *span, self.beta))
            else:
                values.append(match_histogram(_count(one), _count(other), VALUES))
        from_lab(lab, values, result)


def _pixels(image: Tensor) -> Pixels:
    """A tensor [3, H, W] as an array."""
    return np.ascontiguousarray(image.detach().float().cpu().numpy())


def _count(channel: Levels) -> Counts:
    """Pixels [65536] of each level of a channel [H, W]."""
    counts = cv2.calcHist([channel], [0], None, [len(VALUES)], [0, len(VALUES)])
    return np.asarray(counts.ravel(), np.int64)


def match_histogram(counts: Counts, others: Counts, values: Pixels) -> Pixels:
    """New values [N] for the levels of a channel, which give it another channel's histogram.

    Gonzalez and Woods, Digital Image Processing, histogram specification: a value goes to the
    quantile of the target at the share of source pixels that are not above it, interpolated
    between the target's values.

    Differs: in a channel of one value, a and b of a grey image, it becomes the target's median,
    where the rule would give all pixels the target's most extreme one.

    Args:
        counts: pixels [N] of the source's levels.
        others: of the target's.
        values: that the levels of both stand for, [N].

    Example:
        >>> counts, others = np.array([1, 1, 0, 2]), np.array([0, 1, 1, 2])
        >>> match_histogram(counts, others, np.array([0, 10, 20, 30], np.float32)).tolist()
        [10.0, 20.0, 0.0, 30.0]
    """
    here, there = np.flatnonzero(counts), np.flatnonzero(others)
    share = np.cumsum(counts[here]) / counts.sum()
    quantiles = np.cumsum(others[there]) / others.sum()
    if len(here) == 1:
        share[:] = 0.5
    matched = np.zeros_like(values)
    matched[here] = np.interp(share, quantiles, values[there])
    return matched


def correct_gamma(
    counts: Counts, values: Pixels, mean: float, low: float, span: float, beta: float
) -> Pixels:
    """New values [N] for the levels of a channel, which bring it to a target's mean by gamma.

    Coarse-to-fine (CVPR 2021), equation 2, over bins of levels.

    Args:
        counts: pixels [N] of the source's levels.
        values: that the levels stand for, [N].
        mean: of the target's values.
        low: the value that counts as 0.
        span: that much more counts as 1.
        beta: how strongly gamma is drawn to 1.
    """
    here = np.flatnonzero(counts)
    value = np.clip((values - np.float32(low)) / np.float32(span), 0, 1)
    # Bins are closest where it is darkest, for there a power changes most.
    bins = (np.sqrt(value[here]) * BINS).astype(np.int64)
    pixels = np.bincount(bins, counts[here])
    sums = np.bincount(bins, counts[here] * value[here].astype(np.float64))
    full = pixels > 0
    gamma = fit_gamma(sums[full] / pixels[full], pixels[full], (mean - low) / span, beta)
    return np.asarray(cv2.pow(value, gamma).ravel() * np.float32(span) + np.float32(low))


def fit_gamma(
    levels: NDArray[np.float64],
    counts: NDArray[np.float64] | Counts,
    mean: float,
    beta: float = 0.01,
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
