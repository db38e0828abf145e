"""Images at full resolution through a window of fixed size, in constant memory per row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.inference.labels import Vote, largest, probability_bands

OVERLAP = 1 / 3  # how much of a window its neighbour sees too

# Windows [h, w, 3] of one size -> what each head says of each.
VotesOf = Callable[[Sequence[NDArray[np.uint8]]], Sequence[Sequence[Vote]]]


def places(length: int, window: int, overlap: float = OVERLAP) -> list[int]:
    """Where windows begin along a side: evenly spaced, the last one at the very end.

    Args:
        length: of the side, in pixels.
        window: of the window, in pixels.
        overlap: the share of a window that the next one covers again, 0 to less than 1.

    Example:
        >>> places(20, 9), places(9, 9), places(5, 9)
        ([0, 6, 11], [0], [0])
    """
    step = max(1, round(window * (1 - overlap)))
    last = max(0, length - window)
    return [*range(0, last, step), last]


def cover(starts: Sequence[int], window: int) -> Tensor:
    """How many windows see each pixel of a side, float32.

    Example:
        >>> cover([0, 2], 3).tolist()
        [1.0, 1.0, 2.0, 1.0, 1.0]
    """
    count = torch.zeros(starts[-1] + window)
    for start in starts:
        count[start : start + window] += 1
    return count


@torch.no_grad()
def window_bands(
    votes_of: VotesOf,
    image: NDArray[np.uint8],
    window: tuple[int, int],
    *,
    overlap: float = OVERLAP,
    batch: int = 1,
) -> Iterator[tuple[slice, Tensor]]:
    """Mean probabilities over all windows that see a pixel, by bands of rows from the top down.

    A band is given out as soon as no later window reaches it, so that one row of windows is held
    and never the whole image. An image smaller than the window is continued by its edge pixels.

    Args:
        votes_of: the network, for some windows at once.
        image: RGB [H, W, 3].
        window: width and height.
        overlap: of neighbouring windows, as a share of their size.
        batch: how many windows go through the network together.

    Returns:
        Which rows, and [C, rows, W].
    """
    height, width = image.shape[:2]
    across, down = window
    missing = (max(0, down - height), max(0, across - width))
    if any(missing):
        image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    tops, lefts = places(height, down, overlap), places(width, across, overlap)
    often_down, often_across = cover(tops, down), cover(lefts, across)
    corners = list(product(tops, lefts))
    summed: Tensor | None = None
    top = 0

    def settled(held: Tensor, stop: int) -> tuple[slice, Tensor]:
        often = (often_down[top:stop, None] * often_across[:width]).to(held.device)
        return slice(top, stop), held[:, : stop - top, :width] / often

    for first in range(0, len(corners), batch):
        some = corners[first : first + batch]
        cut = [image[y : y + down, x : x + across] for y, x in some]
        for (y, x), votes in zip(some, votes_of(cut), strict=True):
            if summed is None:
                logits = votes[0].logits
                summed = torch.zeros(len(logits), down, image.shape[1], device=logits.device)
            if y > top:
                yield settled(summed, y)
                kept = summed[:, y - top :].clone()
                summed.zero_()[:, : kept.shape[1]] = kept
                top = y
            for rows, probabilities in probability_bands(votes, (down, across)):
                summed[:, rows, x : x + across] += probabilities
    assert summed is not None
    yield settled(summed, height)


def averaged(
    parts: Sequence[Iterator[tuple[slice, Tensor]]], shares: Sequence[float]
) -> Iterator[tuple[slice, Tensor]]:
    """The weighted sum of several bands of one image, which need not end at the same rows.

    Example:
        >>> one = iter([(slice(0, 1), torch.ones(2, 1, 3)), (slice(1, 3), torch.ones(2, 2, 3))])
        >>> two = iter([(slice(0, 3), torch.zeros(2, 3, 3))])
        >>> [(rows, float(x.mean())) for rows, x in averaged([one, two], [0.5, 0.5])]
        [(slice(0, 1, None), 0.5), (slice(1, 3, None), 0.5)]
    """
    held: list[Tensor | None] = [None] * len(parts)
    top = 0
    while True:
        for number, part in enumerate(parts):
            if held[number] is None:
                held[number] = next(part, (slice(0), None))[1]
        full = [one for one in held if one is not None]
        if len(full) < len(parts):
            return
        rows = min(one.shape[1] for one in full)
        total = full[0][:, :rows] * shares[0]
        for one, share in zip(full[1:], shares[1:], strict=True):
            total = total + one[:, :rows] * share
        yield slice(top, top + rows), total
        held = [one[:, rows:] if one.shape[1] > rows else None for one in full]
        top += rows


def labels_of_bands(
    bands: Iterator[tuple[slice, Tensor]], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The likeliest class of each pixel and its probability, from bands of probabilities.

    Returns:
        uint8 and float32, both [*size], on the CPU.
    """
    label, confidence = torch.empty(size, dtype=torch.uint8), torch.empty(size)
    for rows, probabilities in bands:
        best, value = largest(probabilities)
        label[rows], confidence[rows] = best.cpu(), value.cpu()
    return label, confidence
