"""The sum of dilated 3x3 convolutions as one product of matrices, shifted and added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

PIXELS = 640  # of a band: what its product writes stays in a processor's cache


def atrous_sum(
    feature: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dilations: Sequence[int]
) -> Tensor:
    """The sum over i of conv(feature; weights[i], biases[i]) of dilation dilations[i], same size.

    A 3x3 convolution is nine 1x1 convolutions, shifted and added. Those of all branches are one
    matrix, whose product with the feature is taken by bands of rows: a kernel's upper (lower) taps
    are left out where they would land outside the map, and the centres, which all branches have in
    common, are summed first. Exact up to rounding.

    Args:
        feature: [B, D, h, w].
        weights: each [C, D, 3, 3].
        biases: each [C].
        dilations: one per branch, growing.

    Returns:
        Logits [B, C, h, w]. On a CPU they can be differentiated once.

    Example:
        >>> weight = torch.arange(9.0).view(1, 1, 3, 3)
        >>> atrous_sum(torch.eye(3)[None, None], [weight], [torch.ones(1)], [2])[0, 0].tolist()
        [[13.0, 1.0, 11.0], [1.0, 5.0, 1.0], [7.0, 1.0, 5.0]]
    """
    # Processors alone lack fast kernels for dilated convolutions; compilers and exporters are
    # better off with operations that they know.
    if feature.device.type != "cpu" or torch.compiler.is_compiling():
        return _plain(feature, weights, biases, dilations)
    kernels = _kernels(weights)
    if torch.is_autocast_enabled("cpu"):
        half = torch.get_autocast_dtype("cpu")
        feature, kernels = feature.to(half), kernels.to(half)
    summed = cast(Tensor, _ShiftedSum.apply(feature, kernels, _taps(dilations)))
    # Not `stack(...).sum(0)`, whose gradients share memory: what a second backward pass adds to one
    # would be added to all.
    bias = sum(biases[1:], start=biases[0])
    return (summed + bias[:, None, None]).to(feature.dtype)


def _plain(
    feature: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dilations: Sequence[int]
) -> Tensor:
    first, *others = (
        functional.conv2d(feature, weight, bias, padding=dilation, dilation=dilation)
        for weight, bias, dilation in zip(weights, biases, dilations, strict=True)
    )
    return sum(others, start=first)


# Where a tap reads the feature, seen from the logits: rows below and columns to the right.
Tap = tuple[int, int]


def _taps(dilations: Sequence[int]) -> tuple[Tap, ...]:
    """Every place of every kernel, in such an order that those that a row feeds are neighbours."""
    above = [(-d, right) for d in reversed(dilations) for right in (-d, 0, d)]
    level = [(0, right) for d in dilations for right in (-d, d)]
    below = [(d, right) for d in dilations for right in (-d, 0, d)]
    return (*above, *level, (0, 0), *below)


def _kernels(weights: Sequence[Tensor]) -> Tensor:
    """The weights as one matrix, [taps * C, D], in the order of `_taps`."""
    rows = [weight.permute(2, 3, 0, 1).unbind(0) for weight in weights]
    above = [upper for upper, _, _ in reversed(rows)]
    sides = [middle[::2] for _, middle, _ in rows]
    centre = torch.stack([middle[1] for _, middle, _ in rows]).sum(0, keepdim=True)
    below = [lower for _, _, lower in rows]
    return torch.cat([*above, *sides, centre, *below]).flatten(0, 1)


@dataclass(frozen=True)
class _Move:
    """Where one tap takes the columns that it reads: rows and columns of the logits."""

    read: slice
    rows: slice
    columns: slice


@dataclass(frozen=True)
class _Band:
    """Rows of the feature, the rows of the matrix that they are multiplied with, and the moves."""

    rows: slice
    kernels: slice
    moves: tuple[_Move, ...]


def _bands(taps: Sequence[Tap], classes: int, height: int, width: int) -> list[_Band]:
    """Rows whose taps are the same, not too many at once."""
    sides = {abs(down) for down, _ in taps if abs(down) < height}
    steps = range(0, height, max(1, PIXELS // width))
    cuts = sorted({*sides, *(height - side for side in sides), *steps})
    bands = []
    for top, end in pairwise(cuts):
        fed = [i for i, (down, _) in enumerate(taps) if down <= top and end - down <= height]
        moves = [
            _Move(
                read=slice(max(0, right), max(0, width + min(0, right))),
                rows=slice(top - down, end - down),
                columns=slice(max(0, -right), max(0, width - max(0, right))),
            )
            for down, right in taps[fed[0] : fed[-1] + 1]
        ]
        kernels = slice(fed[0] * classes, (fed[-1] + 1) * classes)
        bands.append(_Band(slice(top, end), kernels, tuple(moves)))
    return bands


class _ShiftedSum(torch.autograd.Function):
    """Feature [B, D, h, w] and kernels [taps * C, D] -> [B, C, h, w], in float32 at least."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, kernels: Tensor, taps: Sequence[Tap]) -> Tensor:
        ctx.save_for_backward(feature, kernels)
        height, width = feature.shape[2:]
        classes = len(kernels) // len(taps)
        ctx.bands = _bands(taps, classes, height, width)
        # Thirty-three terms would lose bits in half precision.
        dtype = torch.promote_types(feature.dtype, torch.float32)
        logits = feature.new_zeros(len(feature), classes, height, width, dtype=dtype)
        for image, total in zip(feature, logits, strict=True):
            for band in ctx.bands:
                product = kernels[band.kernels] @ image[:, band.rows].flatten(1)
                parts = product.view(len(band.moves), classes, -1, width)
                for part, move in zip(parts, band.moves, strict=True):
                    total[:, move.rows, move.columns] += part[:, :, move.read]
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        feature, kernels = ctx.saved_tensors
        for_feature = torch.empty_like(feature) if ctx.needs_input_grad[0] else None
        for_kernels = (
            torch.zeros_like(kernels, dtype=gradient.dtype) if ctx.needs_input_grad[1] else None
        )
        for index, (image, slopes) in enumerate(zip(feature, gradient, strict=True)):
            for band in ctx.bands:
                taken = _taken(slopes, band, image)
                if for_feature is not None:
                    shape = image[:, band.rows].shape
                    for_feature[index, :, band.rows] = (kernels[band.kernels].t() @ taken).view(
                        shape
                    )
                if for_kernels is not None:
                    for_kernels[band.kernels] += taken @ image[:, band.rows].flatten(1).t()
        return for_feature, None if for_kernels is None else for_kernels.to(kernels.dtype), None


def _taken(gradient: Tensor, band: _Band, image: Tensor) -> Tensor:
    """The gradient [C, h, w] where each tap wrote, [taps * C, pixels of the band]."""
    rows, width = band.rows.stop - band.rows.start, gradient.shape[2]
    taken = image.new_zeros(len(band.moves), len(gradient), rows, width)
    for part, move in zip(taken, band.moves, strict=True):
        part[:, :, move.read] = gradient[:, move.rows, move.columns]
    return taken.view(-1, rows * width)
