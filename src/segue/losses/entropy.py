"""Entropy of predictions, and its direct minimisation: MinEnt."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from segue.training.step import Step


@dataclass(frozen=True)
class MinEnt:
    """Mean entropy of the predictions for unlabelled images, divided by log C.

    ADVENT (CVPR 2019), equations 2 and 3. The division is ADVENT's code; its weight of 0.001 is
    tuned for it.

    Args:
        view: whose predictions are made certain.
        head: which head of the segmenter.
        network: which segmenter.

    Example:
        >>> MinEnt().trains
        ('segmenter',)
    """

    view: str = "target"
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
        """A scalar between 0 and 1."""
        log_probabilities = step.predict(self.view, self.network).log_probabilities(self.head)
        return self_information(log_probabilities).sum(1).flatten(1).mean(1).mean()


@dataclass(frozen=True)
class RobustEntropy:
    """Mean of (e^2 + 1e-8)^eta over the pixels of unlabelled images, e being entropy / log C.

    FDA (CVPR 2020), its robust entropy, with the values of its code, whose weight of 0.005 is tuned
    for them. Above eta = 0.5, pixels of high entropy are pushed more than those of low entropy.

    Differs: the paper adds 0.001^2 and leaves entropy in nats; 1e-8 and the division by log C are
    its code's. That takes entropies at the network's stride, here they are of the upsampled logits.

    Args:
        view: whose predictions are made certain.
        head: which head of the segmenter.
        network: which segmenter.
        eta: the power of the penalty.

    Example:
        >>> RobustEntropy().views
        ('target',)
    """

    view: str = "target"
    head: str = "main"
    network: str = "segmenter"
    eta: float = 2.0

    @property
    def views(self) -> tuple[str, ...]:
        """The one view."""
        return (self.view,)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter."""
        return (self.network,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar between 0 and 1."""
        log_probabilities = step.predict(self.view, self.network).log_probabilities(self.head)
        entropy = self_information(log_probabilities).sum(1)
        return (entropy.square() + 1e-8).pow(self.eta).flatten(1).mean(1).mean()


def self_information(log_probabilities: Tensor) -> Tensor:
    """I = -p log p / log C for each class and pixel.

    ADVENT (CVPR 2019), section 3.2; local alignment (ACCV 2020), below equation 2.
    Differs: divided by log C as ADVENT's code does, so that an image's entropy lies in 0 to 1.

    Args:
        log_probabilities: [B, C, H, W], the logarithm and not p itself: p underflows to 0, where
            p log p has no gradient.

    Example:
        >>> import torch
        >>> uniform = torch.zeros(1, 4, 1, 1).log_softmax(1)
        >>> round(float(self_information(uniform).sum()), 4)
        1.0
    """
    classes = log_probabilities.shape[1]
    return -log_probabilities.exp() * log_probabilities / math.log(classes)
