"""Photometric alignment by torch alone, where the images are: nothing waits for the processor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segue.translation.lab import PER_UNIT, TO_XYZ, ZERO

SPANS = ((0, 100), (-128, 255), (-128, 255))  # what gamma shifts to 0 and divides by
LEAST_GAMMA = 0.01
BINS = 1024  # of a channel's square roots, over which gamma is sought

_LEVELS = 65536
_TO_RGB = np.linalg.inv(TO_XYZ)
_GRID = 33
_ROUNDS = 8  # each narrows gamma to 2/32 of where it was sought


def align(source: Tensor, target: Tensor, by_gamma: tuple[bool, bool, bool], beta: float) -> Tensor:
    """As `Photometric` aligns, to 0.02 of 255 on average.

    Args:
        source: [B, 3, H, W], 0 to 1.
        target: [B, 3, h, w], on the same device.
        by_gamma: which of L, a and b are corrected by gamma; the others' histograms are matched.
        beta: how strongly gamma is drawn to 1.

    Example:
        >>> source = torch.rand(1, 3, 8, 8)
        >>> same = align(source, source, (True, False, False), beta=0.01)
        >>> bool((same - source).abs().mean() < 0.001)
        True
    """
    lab, reference = (_to_lab(image.detach().float()) for image in (source, target))
    channels = []
    for index, (gamma, (low, span)) in enumerate(zip(by_gamma, SPANS, strict=True)):
        one, other = lab[:, index], reference[:, index]
        if gamma:
            channels.append(_correct(one, other.mean((1, 2)).double(), low, span, beta))
        else:
            channels.append(_match(one, other))
    return _from_lab(torch.stack(channels, 1))


def _weighted(channels: Tensor, weights: list[list[float]]) -> Tensor:
    # Not a matrix product, which TF32 and autocast would round to few bits.
    first, second, third = channels.unbind(1)
    return torch.stack([first * a + second * b + third * c for a, b, c in weights], 1)


def _to_lab(rgb: Tensor) -> Tensor:
    light = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _weighted(light, TO_XYZ.tolist())
    root = torch.where(xyz > (6 / 29) ** 3, xyz ** (1 / 3), xyz * ((29 / 6) ** 2 / 3) + 4 / 29)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _from_lab(lab: Tensor) -> Tensor:
    lightness, a, b = lab.unbind(1)
    middle = (lightness + 16) / 116
    root = torch.stack([middle + a / 500, middle, middle - b / 200], 1)
    xyz = torch.where(root > 6 / 29, root**3, 3 * (6 / 29) ** 2 * (root - 4 / 29))
    light = _weighted(xyz, _TO_RGB.tolist()).clamp(0, 1)
    shown = 1.055 * light ** (1 / 2.4) - 0.055
    return torch.where(light > 0.0031308, shown, 12.92 * light).clamp(0, 1)


def _level(channel: Tensor) -> Tensor:
    return (channel * PER_UNIT + ZERO).round().clamp(0, _LEVELS - 1).long().flatten(1)


def _count(level: Tensor) -> Tensor:
    counts = level.new_zeros(len(level), _LEVELS)
    return counts.scatter_add_(1, level, torch.ones_like(level))


def _match(source: Tensor, target: Tensor) -> Tensor:
    """Channels [B, H, W] with the histograms of others [B, h, w], as `match_histogram`."""
    level, other = _level(source), _level(target)
    counts, others = _count(level), _count(other)
    share = counts.cumsum(1).double() / level.shape[1]
    flat = (counts.amax(1, keepdim=True) == level.shape[1]).double()
    share = share * (1 - flat) + 0.5 * flat
    quantiles = others.cumsum(1).double() / other.shape[1]
    index = torch.arange(_LEVELS, device=source.device).expand_as(others)
    # The target's values on both sides of each share: levels that occur, or the lowest twice.
    high = torch.searchsorted(quantiles, share).clamp_(max=_LEVELS - 1)
    earlier = torch.where(others > 0, index, -1).cummax(1).values.roll(1, 1)
    earlier[:, 0] = -1
    low = earlier.gather(1, high)
    low = torch.where(low < 0, high, low)
    above, below = quantiles.gather(1, high), quantiles.gather(1, low)
    part = torch.where(above > below, (share - below) / (above - below), 1)
    matched = (low + part * (high - low) - ZERO) / PER_UNIT
    return matched.to(source).gather(1, level).view_as(source)


def _correct(source: Tensor, mean: Tensor, low: float, span: float, beta: float) -> Tensor:
    """Channels [B, H, W] brought to means [B] by gamma, as `correct_gamma`."""
    value = ((source - low) / span).clamp(0, 1)
    counts = _count(_level(source))
    steps = torch.arange(_LEVELS, device=source.device) - ZERO - low * PER_UNIT
    steps = steps.clamp(0, span * PER_UNIT)
    bins = ((steps / (span * PER_UNIT)).sqrt() * BINS).long()
    # Sums of whole numbers: the same in every order.
    empty = counts.new_zeros(len(counts), BINS + 1)
    pixels = empty.index_add(1, bins, counts)
    levels = empty.index_add(1, bins, counts * steps).double() / pixels.clamp(min=1)
    gamma = _fit(levels / (span * PER_UNIT), pixels, (mean - low) / span, beta)
    return value ** gamma.to(value)[:, None, None] * span + low


def _fit(levels: Tensor, pixels: Tensor, mean: Tensor, beta: float) -> Tensor:
    """The gammas [B] that `fit_gamma` finds, by ever finer grids: all images at once."""
    shares = pixels.double() / pixels.sum(1, keepdim=True) * (levels > 0)
    logs = levels.clamp(min=1e-12).log()
    reach = ((shares * levels).sum(1) - mean) / beta**0.5
    ends = torch.stack([torch.ones_like(mean), (1 + reach).clamp(min=LEAST_GAMMA)], 1)
    least, most = ends.amin(1, keepdim=True), ends.amax(1, keepdim=True)
    low, high = least, most
    places = torch.linspace(0, 1, _GRID, dtype=torch.float64, device=levels.device)
    for _ in range(_ROUNDS):
        grid = low + (high - low) * places
        over = (shares[:, None] * (grid[..., None] * logs[:, None]).exp()).sum(2) - mean[:, None]
        cost = over**2 + beta * (grid - 1) ** 2
        best = grid.gather(1, cost.argmin(1, keepdim=True))
        step = (high - low) / (_GRID - 1)
        low, high = torch.maximum(best - step, least), torch.minimum(best + step, most)
    return best.squeeze(1)
