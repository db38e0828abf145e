"""Cross-entropy with labels: paper 001, equation 1."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from segue.label_space import IGNORE
from segue.training.step import Step


@dataclass(frozen=True)
class CrossEntropy:
    """Mean of -log p(label) over the labelled pixels of an image, then over images.

    Local alignment (ACCV 2020), equation 1; category-adaptive thresholds (ICASSP 2021), equations 4
    and 6; coarse-to-fine (CVPR 2021), equation 5, with a jittered view of a target that carries
    pseudo-labels; on logits upsampled to the size of the view.

    Differs: those equations divide by all pixels, ignored ones too, and equation 5 is a sum; here
    the mean is over labelled pixels, as in the code that all of them build on, so that the weight
    means the same however many pixels are kept.

    Args:
        view: which view's labels; its weights, where it has them, scale each pixel.
        head: which head of the segmenter.
        network: which segmenter.

    Example:
        >>> CrossEntropy(head="layer3").views
        ('source',)
    """

    view: str = "source"
    head: str = "main"
    network: str = "segmenter"

    @property
    def views(self) -> tuple[str, ...]:
        """The one view."""
        return (self.view,)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter."""
        return (self.network,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar; an image without a labelled pixel counts as 0."""
        batch = step.view(self.view)
        assert batch.label is not None, f"the view {self.view} carries no labels"
        logits = step.predict(self.view, self.network).upsampled(self.head)
        return cross_entropy(logits, batch.label, batch.weight)


def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy per image over its labelled pixels, averaged over the batch.

    Args:
        logits: [B, C, H, W].
        label: [B, H, W] int64, 255 is ignored.
        weight: [B, H, W] or None; the mean is over labelled pixels, weighted or not, so that a
            weight below 1 weakens a pixel instead of shifting its share to others.

    Example:
        >>> import torch
        >>> round(float(cross_entropy(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2).long())), 4)
        1.3863
    """
    loss = functional.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="none")
    if weight is not None:
        loss = loss * weight
    labelled = (label != IGNORE).flatten(1).sum(1).clamp(min=1)
    return (loss.flatten(1).sum(1) / labelled).mean()
