"""Output-space adversaries: AdaptSegNet, AdvEnt, and local alignment on random patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from segue.errors import SegueError
from segue.losses.entropy import self_information
from segue.training.step import Step

SOURCE, TARGET = 0.0, 1.0

Sees = Literal["probabilities", "self_information"]


@dataclass(frozen=True)
class DiscriminatorInput:
    """What a discriminator is shown of a prediction.

    Args:
        sees: `probabilities` (AdaptSegNet, CVPR 2018) or `self_information` (ADVENT, CVPR 2019).
        patch: height and width in pixels of one random crop of the upsampled prediction per
            image, as g in local alignment (ACCV 2020), section 3.1; None shows all of it. The
            crop is drawn anew at each iteration, independently for each view, and is the same
            for the network that fools and the discriminator that tells apart.
        head: which head of the segmenter.
        network: which segmenter.

    Example:
        >>> DiscriminatorInput(patch=(256, 256)).sees
        'self_information'
    """

    sees: Sees = "self_information"
    patch: tuple[int, int] | None = None
    head: str = "main"
    network: str = "segmenter"

    def __call__(self, step: Step, view: str) -> Tensor:
        """[B, C, H, W], or [B, C, patch height, patch width]; made once for both sides."""
        return step.once((self, view), lambda: self._show(step, view))

    def _show(self, step: Step, view: str) -> Tensor:
        prediction = step.predict(view, self.network)
        if self.patch is None:
            log_probabilities = prediction.log_probabilities(self.head)
        else:
            # Cropped before the softmax: nothing is computed outside the patch.
            cropped = patches(step, view, prediction.upsampled(self.head), self.patch)
            log_probabilities = torch.log_softmax(cropped.float(), 1)
        if self.sees == "probabilities":
            return log_probabilities.exp()
        return self_information(log_probabilities)


@dataclass(frozen=True)
class Fool:
    """Binary cross-entropy of the target scored against the source's label.

    AdaptSegNet (CVPR 2018), equation 4; ADVENT (CVPR 2019), equation 6; local alignment
    (ACCV 2020), equation 4, its part for the segmenter: minimised, on logits.

    Differs: equation 4 of local alignment has the segmenter maximise the discriminator's loss of
    both domains; here, as in ADVENT, the target alone is scored against the source's label.
    """

    shown: DiscriminatorInput
    discriminator: str
    view: str = "target"

    @property
    def views(self) -> tuple[str, ...]:
        """The target."""
        return (self.view,)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter."""
        return (self.shown.network,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        scores = step.network(self.discriminator)(self.shown(step, self.view))
        return domain_loss(scores, SOURCE)


@dataclass(frozen=True)
class TellApart:
    """Binary cross-entropy of both domains against their labels, each half weight.

    AdaptSegNet (CVPR 2018), equation 2; ADVENT (CVPR 2019), equation 5; local alignment
    (ACCV 2020), equation 3: source 0, target 1. Records the discriminator's accuracy.

    Differs: the equations sum both domains in full; halves are what their code takes.
    """

    shown: DiscriminatorInput
    discriminator: str
    source: str = "source"
    target: str = "target"

    @property
    def views(self) -> tuple[str, ...]:
        """Both."""
        return (self.source, self.target)

    @property
    def trains(self) -> tuple[str, ...]:
        """The discriminator."""
        return (self.discriminator,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        network = step.network(self.discriminator)
        loss, correct = torch.zeros(()), []
        for view, label in ((self.source, SOURCE), (self.target, TARGET)):
            scores = network(self.shown(step, view).detach())
            loss = loss.to(scores.device) + domain_loss(scores, label) / 2
            correct.append(accuracy(scores, label))
        step.record(f"accuracy/{self.discriminator}", torch.stack(correct).mean())
        return loss


def patches(step: Step, view: str, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """One random crop of each image's map, the same whenever this step crops maps of this view.

    Args:
        step: decides the draw, as a function of seed, iteration and view.
        view: what the maps are of.
        maps: [B, C, H, W].
        size: height and width of the crop in pixels.

    Raises:
        SegueError: the crop is larger than the maps.
    """
    whole = (int(maps.shape[-2]), int(maps.shape[-1]))
    room = [have - want for have, want in zip(whole, size, strict=True)]
    if min(room) < 0:
        raise SegueError(
            f"a patch of {size} does not fit a prediction of {whole} (height, width)",
            where="patch",
            fix="choose a smaller patch",
        )
    cut = []
    for index, one in enumerate(maps):
        generator = step.random(f"patch {view}", image=index)
        top, left = (int(torch.randint(space + 1, (), generator=generator)) for space in room)
        cut.append(one[:, top : top + size[0], left : left + size[1]])
    return torch.stack(cut)


def domain_loss(scores: Tensor, label: float) -> Tensor:
    """Binary cross-entropy of discriminator logits against one domain label, per image, averaged.

    Example:
        >>> round(float(domain_loss(torch.zeros(2, 1, 3, 3), SOURCE)), 4)
        0.6931
    """
    scores = scores.float()
    target = torch.full_like(scores, label)
    return functional.binary_cross_entropy_with_logits(scores, target)


def accuracy(scores: Tensor, label: float) -> Tensor:
    """The share of discriminator logits that take a domain for what it is.

    Example:
        >>> float(accuracy(torch.tensor([2.0, -1.0]), TARGET))
        0.5
    """
    return ((scores.detach() > 0) == bool(label)).float().mean()


def adversarial(
    *,
    sees: Sees = "self_information",
    patch: int | tuple[int, int] | None = None,
    head: str = "main",
    network: str = "segmenter",
    discriminator: str = "discriminator",
    source: str = "source",
    target: str = "target",
) -> dict[str, Fool | TellApart]:
    """The two sides of an output-space adversary; the weight of the recipe is for `fool`.

    AdaptSegNet with `probabilities`, AdvEnt with `self_information`, local alignment (ALP-GI) with
    a `patch` besides.

    Args:
        sees: what the discriminator is shown.
        patch: side, or height and width, of a random crop of the prediction; None: all of it.
        head: which head of the segmenter.
        network: which segmenter.
        discriminator: the discriminator's name among the networks.
        source: the view that is labelled 0.
        target: the view that is labelled 1 and made to look like 0.

    Example:
        >>> sorted(adversarial(patch=256))
        ['fool', 'tell_apart']
    """
    size = (patch, patch) if isinstance(patch, int) else patch
    shown = DiscriminatorInput(sees, size, head, network)
    return {
        "fool": Fool(shown, discriminator, target),
        "tell_apart": TellApart(shown, discriminator, source, target),
    }


def default_networks(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The discriminator that an adversary trains against where the recipe names none.

    Adam 1e-4, betas 0.9 and 0.99, as AdaptSegNet and ADVENT set it.
    """
    optimiser = {"kind": "adam", "lr": 1e-4, "betas": [0.9, 0.99]}
    name = settings.get("discriminator", "discriminator")
    return {str(name): {"kind": "discriminator", "optimiser": optimiser}}
