"""What a pseudo-label rule is: counts that merge by addition, thresholds, a decision per pixel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.label_space import IGNORE

Counts = NDArray[np.int64]


class Settled(Protocol):
    """A rule that has seen all images it wants to see."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """A number for each class, to report; NaN where the class has none."""

    def propose(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """A class for every pixel, an integer [H, W], and whether it is kept, bool [H, W].

        Args:
            probabilities: float32 [C, H, W].
        """


class Rule(Protocol):
    """Settings of a rule; all that it finds out lies in the counts, which anyone may add up.

    The counts of one pass are one array of integers, of the same shape for every image, so the
    sum is the same to the bit however images are spread over processes. What is decided of a pixel
    depends on that pixel alone: a band of an image's rows may stand for an image everywhere.
    """

    @property
    def passes(self) -> int:
        """How often it has to see every image before its thresholds are settled."""

    def count(
        self, probabilities: Tensor, earlier: Sequence[Counts], onto: Counts | None = None
    ) -> Counts:
        """The counts of one image [C, H, W] in the pass that follows the `earlier` ones.

        With `onto` they are added to these, in place: few of many counts change.
        """

    def settle(self, counts: Sequence[Counts], classes: int) -> Settled:
        """The thresholds for this many classes from the summed counts of every pass."""


def total(rule: Rule, images: Iterable[Tensor], earlier: Sequence[Counts] = ()) -> Counts:
    """The sum of a pass's counts over images [C, H, W]; an empty sum is a zero of no dimension.

    Memory does not grow with the number of images.

    Args:
        rule: whose counts.
        images: probabilities of one image after another, float32.
        earlier: the merged counts of the passes before this one.
    """
    summed: Counts | None = None
    for probabilities in images:
        summed = rule.count(probabilities, earlier, summed)
    return np.zeros((), np.int64) if summed is None else summed


def decide(settled: Settled, probabilities: Tensor) -> NDArray[np.uint8]:
    """The pseudo-label of an image: train ids [H, W], 255 where the rule keeps nothing.

    Example:
        >>> from segue.pseudo_labels.confidence import Confidence
        >>> settled = Confidence(cap=0.6, quantile=None).settle([], 2)
        >>> decide(settled, torch.tensor([[[0.7, 0.5]], [[0.3, 0.5]]])).tolist()
        [[0, 255]]
    """
    return as_label(*settled.propose(probabilities))


def as_label(label: Tensor, kept: Tensor) -> NDArray[np.uint8]:
    """Train ids [H, W], 255 where not kept."""
    return label.where(kept, IGNORE).to(torch.uint8).cpu().numpy()
