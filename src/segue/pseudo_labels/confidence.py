"""Pixels whose confidence exceeds a cap or a quantile of their class: BDL, FDA, coarse-to-fine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.errors import SegueError
from segue.inference.labels import largest
from segue.pseudo_labels import selection
from segue.pseudo_labels.rule import Counts


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """Keeps a pixel where its largest probability exceeds min(cap, a quantile of its class).

    The confidence of a pixel is its largest probability, its class c the one that has it. The n
    confidences of c over all target images, sorted ascending as x[0] .. x[n - 1], give
    t_c = min(cap, x[round(n quantile)]), and the last of them where that would be x[n]; a half is
    rounded to the even side. Kept is where confidence > t_c.

    BDL (CVPR 2019): cap 0.9, the median. FDA (CVPR 2020): 0.9 and 0.66, over the mean of three
    models. Coarse-to-fine (CVPR 2021), section 3.1: 0.9 and the top 10 %, which is quantile 0.9.
    The index is that of BDL's and FDA's code.

    Differs: BDL's and FDA's code also keep confidence = t_c, and so does coarse-to-fine's equation
    5, where its text says "higher than". Only ties at t_c, among them the pixel that t_c is taken
    from, tell the two apart; a class all of whose confidences are one value below the cap, as a
    class of one pixel, gets no label.
    Differs: for a class that is never predicted BDL's t_c is 0, here it is the cap; no pixel of the
    images that it was settled on feels it.

    Args:
        cap: no threshold is above it.
        quantile: 0 to 1; null leaves the cap alone, which needs no statistics.

    Raises:
        SegueError: one of them is out of range.

    Example:
        >>> images = [torch.tensor([[[0.6, 0.7, 0.8, 0.95]], [[0.4, 0.3, 0.2, 0.05]]])]
        >>> rule, counts = Confidence(), []
        >>> for _ in range(rule.passes):
        ...     counts.append(sum(rule.count(image, counts) for image in images))
        >>> [round(threshold, 2) for threshold in rule.settle(counts, 2).thresholds]
        [0.8, 0.9]
    """

    cap: float = 0.9
    quantile: float | None = 0.5

    def __post_init__(self) -> None:
        for name, value in (("cap", self.cap), ("quantile", self.quantile)):
            if value is not None and not 0 <= value <= 1:
                raise SegueError(f"{name} {value}", where="confidence", fix="give 0 to 1")

    @property
    def passes(self) -> int:
        """None for a fixed threshold."""
        return 0 if self.quantile is None else selection.PASSES

    def rank(self, pixels: int) -> int | None:
        """The place of a class's threshold among its sorted confidences."""
        if not pixels or self.quantile is None:
            return None
        return min(round(pixels * self.quantile), pixels - 1)

    def count(
        self, probabilities: Tensor, earlier: Sequence[Counts], onto: Counts | None = None
    ) -> Counts:
        """Confidences by class, the upper half of their bits and then the lower."""
        return selection.count(probabilities, earlier, self.rank, onto)

    def settle(self, counts: Sequence[Counts], classes: int) -> ConfidenceThresholds:
        """The smaller of cap and quantile for each class."""
        if not counts:
            return ConfidenceThresholds((self.cap,) * classes)
        found = selection.select(counts, self.rank).tolist()
        # Of a NaN and a number, the first: a class that is not there has the cap.
        return ConfidenceThresholds(tuple(min(self.cap, quantile) for quantile in found))


@dataclass(frozen=True)
class ConfidenceThresholds:
    """Confidence above the class's threshold."""

    thresholds: tuple[float, ...]

    def propose(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest class [H, W] and whether its probability exceeds the threshold."""
        label, confidence = largest(probabilities)
        label = label.int()
        # In float64, or a cap of 0.9 would be compared as 0.89999998.
        limits = torch.tensor(self.thresholds, dtype=torch.float64, device=label.device)
        return label, confidence > limits[label]
