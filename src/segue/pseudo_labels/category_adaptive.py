"""Pixels less uncertain than the mean prediction of their class: category-adaptive thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segue.inference.labels import largest
from segue.pseudo_labels.rule import Counts

UNIT = 2**28  # 1.0 as an integer: sums of integers do not depend on the order


@dataclass(frozen=True, kw_only=True)
class CategoryAdaptive:
    """Keeps a pixel predicted l where E(p) < E(f^l) - delta.

    Category-adaptive domain adaptation (ICASSP 2021), equations 1 to 3: f^l is the mean probability
    vector over all target pixels predicted l, E the entropy with the natural logarithm.

    Probabilities are summed as multiples of 2^-28, an error of at most 2e-9 in f^l, so that sums do
    not depend on how images are spread over processes. 3e10 pixels of a class find room.

    Differs: equation 1 as printed also sums over the classes, which leaves no vector.
    Differs: delta is not given in the paper. The default of 0 keeps what is more certain than its
    class's mean prediction.
    Differs: equation 1 says "confidence-weighted" and yet divides by a number of pixels. Of its
    readings `count` is sum(p) / |P^l|, `confidence` is sum(confidence p) / sum(confidence), and
    `confidence_over_count` is sum(confidence p) / |P^l|, as printed, whose entries add up to the
    mean confidence instead of 1.

    Args:
        delta: in nats; the larger, the fewer pixels are kept.
        weighting: how much a pixel counts in f^l, the same or as its largest probability, and
            what the sum is divided by.

    Example:
        >>> images = [torch.tensor([[[0.9, 0.7, 0.3]], [[0.1, 0.3, 0.7]]])]
        >>> rule = CategoryAdaptive()
        >>> settled = rule.settle([sum(rule.count(image, []) for image in images)], 2)
        >>> [round(threshold, 3) for threshold in settled.thresholds]
        [0.5, 0.611]
        >>> settled.propose(images[0])[1].tolist()
        [[True, False, False]]
    """

    delta: float = 0.0
    weighting: Literal["count", "confidence", "confidence_over_count"] = "count"

    @property
    def passes(self) -> int:
        """One."""
        return 1

    def count(
        self,
        probabilities: Tensor,
        earlier: Sequence[Counts],  # noqa: ARG002
        onto: Counts | None = None,
    ) -> Counts:
        """[C, C + 1]: the summed vector of the pixels of each predicted class, and its divisor."""
        label, confidence = largest(probabilities.flatten(1))
        label = label.int()
        confidence, ones = confidence.double(), torch.ones_like(confidence, dtype=torch.float64)
        weight = ones if self.weighting == "count" else confidence
        divisor = confidence if self.weighting == "confidence" else ones

        def summed(values: Tensor) -> Tensor:
            # Doubles that hold integers add up exactly below 2^53: in images of up to 2^25 pixels.
            return torch.bincount(label, (values * UNIT).round(), minlength=len(probabilities))

        columns = [summed(weight * row) for row in probabilities.flatten(1)] + [summed(divisor)]
        found: Counts = torch.stack(columns, 1).long().cpu().numpy()
        return found if onto is None else np.add(onto, found, out=onto)

    def settle(self, counts: Sequence[Counts], classes: int) -> EntropyThresholds:
        """The entropy of each class's mean vector, less delta; NaN where it is never predicted."""
        sums = counts[0].reshape(classes, classes + 1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            mean = sums[:, :-1] / sums[:, -1:]
        logarithm = np.log(mean, out=np.zeros_like(mean), where=mean > 0)
        entropy = 0.0 - (mean * logarithm).sum(1)
        return EntropyThresholds(tuple((entropy - self.delta).tolist()))


@dataclass(frozen=True)
class EntropyThresholds:
    """Entropy below the class's threshold."""

    thresholds: tuple[float, ...]

    def propose(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest class [H, W] and whether the entropy is below its threshold."""
        label = largest(probabilities)[0].int()
        limits = torch.tensor(self.thresholds, dtype=torch.float64, device=label.device)
        # Nothing is below NaN, the threshold of a class that was never predicted.
        return label, torch.special.entr(probabilities).sum(0) < limits[label]
