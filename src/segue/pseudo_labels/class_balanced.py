"""The same portion of every class, and probabilities measured by it: CBST."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.errors import SegueError
from segue.inference.labels import largest
from segue.pseudo_labels import selection
from segue.pseudo_labels.rule import Counts


@dataclass(frozen=True, kw_only=True)
class ClassBalanced:
    """Keeps the class c with the largest p_c / k_c where that ratio is at least 1.

    CBST (ECCV 2018), whose exp(-k_c) is k_c here. The n confidences of the pixels
    that are predicted c, sorted descending, give k_c = the one at place floor(n portion), counted
    from 1: the top portion reaches it, and all that tie with it. A class of which that is no pixel
    has k_c = 1, as in the authors' code: only certainty can give it a label.

    Differs: over all pixels, where the authors' code takes every fourth to save memory. The portion
    grows by 0.05 a round from 0.2 to 0.5: one stage is one round, so the recipe says its portion.

    Args:
        portion: above 0, at most 1.

    Raises:
        SegueError: it is out of range.

    Example:
        >>> images = [torch.tensor([[[0.9, 0.8, 0.7, 0.4]], [[0.1, 0.2, 0.3, 0.6]]])]
        >>> rule, counts = ClassBalanced(portion=0.67), []
        >>> for _ in range(rule.passes):
        ...     counts.append(sum(rule.count(image, counts) for image in images))
        >>> [round(threshold, 2) for threshold in rule.settle(counts, 2).thresholds]
        [0.8, 1.0]
    """

    portion: float

    def __post_init__(self) -> None:
        if not 0 < self.portion <= 1:
            fix = "give more than 0, at most 1"
            raise SegueError(f"portion {self.portion}", where="class_balanced", fix=fix)

    @property
    def passes(self) -> int:
        """As many as the exact quantile needs."""
        return selection.PASSES

    def rank(self, pixels: int) -> int | None:
        """The place, ascending, of the least confident pixel of the class's top portion."""
        chosen = math.floor(pixels * self.portion)
        return pixels - chosen if chosen else None

    def count(
        self, probabilities: Tensor, earlier: Sequence[Counts], onto: Counts | None = None
    ) -> Counts:
        """Confidences by class, the upper half of their bits and then the lower."""
        return selection.count(probabilities, earlier, self.rank, onto)

    def settle(self, counts: Sequence[Counts], classes: int) -> Ratios:  # noqa: ARG002
        """The confidence that a portion of each class reaches."""
        found = selection.select(counts, self.rank).tolist()
        return Ratios(tuple(1.0 if math.isnan(one) else one for one in found))


@dataclass(frozen=True)
class Ratios:
    """Probability over the class's threshold, at least 1."""

    thresholds: tuple[float, ...]

    def propose(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """The class with the largest ratio [H, W] and whether that reaches 1."""
        # A float32 over itself is 1 to the bit, and over the next larger one less than 1.
        limits = torch.tensor(self.thresholds, dtype=torch.float32, device=probabilities.device)
        label, ratio = largest(probabilities / limits[:, None, None])
        return label, ratio >= 1
