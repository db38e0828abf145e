"""The value of a given rank among all confidences of a class, exactly, from two rounds of counts.

Non-negative float32 numbers are in the order of their bits read as integers. The first pass counts
the upper half of the bits by class, which tells in which bucket the wanted value lies; the second
counts the lower half inside that bucket. What comes out is an element of the list, the one that a
full sort would give, and counts of several processes add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.inference.labels import largest
from segue.pseudo_labels.rule import Counts

PASSES = 2
HALF = 16  # bits of a float32 that each pass looks at
UPPER = 2 ** (HALF - 1)  # values of the upper half: the sign is always 0
LOWER = 2**HALF

Rank = Callable[[int], int | None]  # number of a class's pixels -> place from 0, ascending


def count(
    probabilities: Tensor, earlier: Sequence[Counts], rank: Rank, onto: Counts | None = None
) -> Counts:
    """Counts of one image's confidences by predicted class and half of their bits.

    Args:
        probabilities: float32 [C, H, W]; the largest at a pixel is its confidence.
        earlier: nothing in the first pass, its merged counts in the second.
        rank: which place of a class's sorted confidences is wanted.
        onto: counts of other images in this pass, to which these are added in place.

    Returns:
        [C, 2^15] in the first pass, [C, 2^16] in the second, int64.
    """
    label, confidence = largest(probabilities)
    label, bits = label.int().flatten(), confidence.view(torch.int32).flatten()
    upper = bits >> HALF
    if not earlier:
        return _counted(label * UPPER + upper, (len(probabilities), UPPER), onto)
    bucket, _ = _locate(earlier[0], _ranks(earlier[0], rank))
    inside = upper == torch.from_numpy(bucket.astype(np.int32)).to(label.device)[label]
    index = label[inside] * LOWER + (bits[inside] & (LOWER - 1))
    return _counted(index, (len(probabilities), LOWER), onto)


def select(counts: Sequence[Counts], rank: Rank) -> NDArray[np.float32]:
    """The confidence of the wanted rank for each class, NaN where there is none.

    Args:
        counts: merged, of both passes.
        rank: as it was given to `count`.

    Example:
        >>> def lower_median(pixels):
        ...     return (pixels - 1) // 2 if pixels else None
        >>> image = torch.tensor([[[0.9, 0.6, 0.7]], [[0.1, 0.4, 0.3]]])
        >>> first = count(image, [], lower_median)
        >>> second = count(image, [first], lower_median)
        >>> select([first, second], lower_median).tolist()
        [0.699999988079071, nan]
    """
    upper, rest = _locate(counts[0], _ranks(counts[0], rank))
    lower, _ = _locate(counts[1], rest)
    found = (np.maximum(upper, 0) << HALF | np.maximum(lower, 0)).astype(np.int32)
    return np.where(upper < 0, np.float32(np.nan), found.view(np.float32))


def _counted(index: Tensor, shape: tuple[int, int], onto: Counts | None) -> Counts:
    """How often each index occurs; few do, and no others are touched."""
    counts = np.zeros(shape, np.int64) if onto is None else onto
    found, times = torch.unique(index, return_counts=True)
    counts.reshape(-1)[found.cpu().numpy()] += times.cpu().numpy()
    return counts


def _ranks(counts: Counts, rank: Rank) -> Counts:
    """The wanted place for each class, -1 where none is."""
    wanted = [rank(int(pixels)) for pixels in counts.sum(1)]
    return np.array([-1 if one is None else one for one in wanted], np.int64)


def _locate(counts: Counts, ranks: Counts) -> tuple[Counts, Counts]:
    """The bucket in which each class's rank lies, and the rank inside it; -1 where none is."""
    filled = np.flatnonzero(counts.any(0))  # few of all
    below = np.pad(counts[:, filled].cumsum(1), ((0, 0), (1, 0)))
    place = (below[:, 1:] <= ranks[:, None]).sum(1)
    before = below[np.arange(len(counts)), place]
    bucket = np.append(filled, counts.shape[1])[place]
    absent = ranks < 0
    return np.where(absent, -1, bucket), np.where(absent, -1, ranks - before)
