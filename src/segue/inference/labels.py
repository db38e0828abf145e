"""From logits to labels of any size in constant memory: never all classes of all pixels at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import torch
from torch import Tensor
from torch.nn import functional

# How many values of a band are held at once: what a processor's cache holds, or what keeps a GPU
# busy.
CPU_VALUES, GPU_VALUES = 2**19, 2**25
FEW_PIXELS = 2**16


@dataclass(frozen=True)
class Vote:
    """What one head of one model says of an image.

    Args:
        logits: [C, h, w] float32, at the network's stride.
        align_corners: how they are resized.
        share: how much the probabilities count; the shares of all votes sum to one.
    """

    logits: Tensor
    align_corners: bool
    share: float = 1.0


@torch.no_grad()
def labels(votes: Sequence[Vote], size: tuple[int, int]) -> Tensor:
    """The likeliest class of each pixel.

    Of one vote, to the bit what `argmax` gives of its logits resized bilinearly; of several, of
    their mean probabilities.

    Args:
        votes: of one image, on one device.
        size: height and width.

    Returns:
        uint8 [*size].

    Example:
        >>> logits = torch.tensor([[0.0, 3.0], [2.0, 2.0]]).view(2, 1, 2)
        >>> labels([Vote(logits, align_corners=True)], (1, 5)).tolist()
        [[1, 1, 1, 0, 0]]
    """
    if len(votes) > 1:
        return labels_and_confidence(votes, size)[0]
    return _label_of_one(votes[0], size)[0]


@torch.no_grad()
def labels_and_confidence(votes: Sequence[Vote], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The likeliest class of each pixel as `labels` gives it, and its probability.

    Returns:
        uint8 and float32, both [*size].

    Example:
        >>> logits = torch.tensor([0.0, 1.0, 0.0]).log_softmax(0).view(3, 1, 1)
        >>> label, confidence = labels_and_confidence([Vote(logits, True)], (1, 1))
        >>> label.item(), round(confidence.item(), 3)
        (1, 0.576)
    """
    if len(votes) == 1:
        label, confidence = _label_of_one(votes[0], size)
        for rows in _bands(votes, size):
            above = _resized(votes[0], size, rows).sub_(confidence[rows]).exp_().sum(0)
            torch.reciprocal(above, out=confidence[rows])
        return label, confidence.clamp_(max=1)
    device = votes[0].logits.device
    label = torch.empty(size, dtype=torch.uint8, device=device)
    confidence = torch.empty(size, device=device)
    for rows, probabilities in probability_bands(votes, size):
        label[rows], confidence[rows] = largest(probabilities)
    return label, confidence


@torch.no_grad()
def probability_bands(
    votes: Sequence[Vote], size: tuple[int, int]
) -> Iterator[tuple[slice, Tensor]]:
    """Mean probabilities by bands of rows: which rows, and [C, rows, width], from the top down.

    The softmax of each vote's logits resized bilinearly, exact up to rounding.

    Args:
        votes: of one image, on one device.
        size: height and width.

    Example:
        >>> vote = Vote(torch.zeros(4, 2, 2), align_corners=False)
        >>> [(rows, x.shape) for rows, x in probability_bands([vote], (3, 5))]
        [(slice(0, 3, None), torch.Size([4, 3, 5]))]
    """
    for rows in _bands(votes, size):
        first, *others = (_resized(vote, size, rows).softmax(0).mul_(vote.share) for vote in votes)
        for other in others:
            first += other
        yield rows, first


def _label_of_one(vote: Vote, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Labels and the largest logits."""
    # In this layout every class is resized by itself; in others the last bits depend on all.
    logits = vote.logits.contiguous()[None]
    if size[0] * size[1] <= FEW_PIXELS:
        # To maps of a few pixels torch resizes many classes with another kernel than one.
        best, label = _interpolated(logits, size, vote.align_corners)[0].max(0)
        return label.to(torch.uint8), best
    return largest(_one_by_one(logits, size, vote.align_corners))


def _one_by_one(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Iterator[Tensor]:
    """The resized map of each class of [1, C, h, w], all in the same memory."""
    resized = logits.new_empty(1, 1, *size)
    for number in range(logits.shape[1]):
        one = logits[:, number : number + 1]
        yield torch.ops.aten.upsample_bilinear2d.out(one, size, align_corners, out=resized)[0, 0]


def largest(maps: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Of maps [H, W] one after the other, which is largest, the first of equal ones, and how.

    Faster on a CPU than `max` over the first dimension of all of them.

    Returns:
        uint8 and as the maps, both [H, W].

    Example:
        >>> [one.tolist() for one in largest(torch.tensor([[[0.5, 0.2]], [[0.5, 0.8]]]))]
        [[[0, 1]], [[0.5, 0.800000011920929]]]
    """
    # A map may lie where the one before lay, and `enumerate` would hold on to it.
    following, numbers = iter(maps), count(1)
    best = next(following).clone()
    label = torch.zeros_like(best, dtype=torch.uint8)
    larger = torch.empty_like(best, dtype=torch.bool)
    for values in following:
        torch.gt(values, best, out=larger)
        # Numbers grow, so that the larger one is the later one: faster than to write by a mask.
        torch.maximum(label, larger.view(torch.uint8).mul_(next(numbers)), out=label)
        torch.maximum(best, values, out=best)
        del values
    return label, best


def _interpolated(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return functional.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


def _bands(votes: Sequence[Vote], size: tuple[int, int]) -> Iterator[slice]:
    logits = votes[0].logits
    values = CPU_VALUES if logits.device.type == "cpu" else GPU_VALUES
    step = max(1, values // (len(logits) * size[1]))
    for start, stop in pairwise([*range(0, size[0], step), size[0]]):
        yield slice(start, stop)


def _resized(vote: Vote, size: tuple[int, int], rows: slice) -> Tensor:
    """Rows of the logits resized to `size`, [C, rows, width]."""
    above, below, share = _neighbours(vote, size[0], rows)
    first, last = int(above[0]), int(below[-1]) + 1
    wide = _interpolated(
        vote.logits[None, :, first:last], (last - first, size[1]), vote.align_corners
    )
    above, below, share = (x.to(wide.device) for x in (above - first, below - first, share))
    return torch.lerp(wide[0][:, above], wide[0][:, below], share[:, None])


def _neighbours(vote: Vote, height: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
    """For resized rows: the two rows of the logits between which they lie, and how far down."""
    cells = vote.logits.shape[1]
    row = torch.arange(rows.start, rows.stop, dtype=vote.logits.dtype)
    if vote.align_corners:
        place = row * ((cells - 1) / max(1, height - 1))
    else:
        place = ((row + 0.5) * (cells / height) - 0.5).clamp(min=0)
    above = place.long().clamp(max=cells - 1)
    return above, (above + 1).clamp(max=cells - 1), (place - above).clamp(0, 1)
