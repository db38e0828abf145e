"""What trains translating generators: CycleGAN's losses, and BDL's semantic term.

Images are views, made by generators: `as_target` is the source redrawn, `back_to_source` that
redrawn again, `same_target` the target given to the generator that should leave it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from segue.training.step import Prediction, Step

REAL, MADE = 1.0, 0.0

Compares = Literal["probabilities", "normalised_logits"]


@dataclass(frozen=True)
class LeastSquaresFool:
    """Squared difference of the scores of made images from what real ones should score.

    CycleGAN (ICCV 2017), equation 1 with section 4's least squares: (D(G(x)) - 1)^2.
    """

    fake: str
    generator: str
    discriminator: str

    @property
    def views(self) -> tuple[str, ...]:
        """The made images."""
        return (self.fake,)

    @property
    def trains(self) -> tuple[str, ...]:
        """The generator."""
        return (self.generator,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        scores = step.network(self.discriminator)(step.view(self.fake).image)
        return least_squares(scores, REAL)


@dataclass(frozen=True)
class LeastSquaresTellApart:
    """Squared difference of scores from 1 for real images and 0 for made ones, each half weight.

    CycleGAN (ICCV 2017), equation 1 with section 4's least squares: (D(y) - 1)^2 / 2 +
    D(G(x))^2 / 2. Records the discriminator's accuracy.
    """

    real: str
    shown: str
    discriminator: str

    @property
    def views(self) -> tuple[str, ...]:
        """Both."""
        return (self.real, self.shown)

    @property
    def trains(self) -> tuple[str, ...]:
        """The discriminator."""
        return (self.discriminator,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        network = step.network(self.discriminator)
        losses, correct = [], []
        for view, label in ((self.real, REAL), (self.shown, MADE)):
            scores = network(step.view(view).image.detach())
            losses.append(least_squares(scores, label))
            correct.append(((scores > 0.5) == bool(label)).float().mean())
        step.record(f"accuracy/{self.discriminator}", torch.stack(correct).mean())
        return torch.stack(losses).mean()


def least_squares(scores: Tensor, label: float) -> Tensor:
    """Mean squared difference of a discriminator's scores from a label, per image, averaged.

    Example:
        >>> float(least_squares(torch.zeros(2, 1, 3, 3), REAL))
        1.0
    """
    return (scores.float() - label).square().mean()


def least_squares_adversarial(
    *,
    real: str = "target",
    fake: str = "as_target",
    shown: str | None = None,
    generator: str = "to_target",
    discriminator: str = "judge_target",
) -> dict[str, LeastSquaresFool | LeastSquaresTellApart]:
    """The two sides of an adversary on images; the weight of the recipe is for `fool`.

    Args:
        real: the view of real images.
        fake: the view that the generator makes and that is to pass for real.
        shown: the view of made images that the discriminator learns from, an image pool of `fake`;
            None: `fake` itself.
        generator: the generator's name among the networks.
        discriminator: the discriminator's name among the networks.

    Example:
        >>> least_squares_adversarial(shown="pooled_target")["tell_apart"].views
        ('target', 'pooled_target')
    """
    return {
        "fool": LeastSquaresFool(fake, generator, discriminator),
        "tell_apart": LeastSquaresTellApart(real, shown or fake, discriminator),
    }


@dataclass(frozen=True)
class Cycle:
    """Mean absolute difference of images redrawn twice, there and back, from the original.

    CycleGAN (ICCV 2017), equation 2, one direction; its weight is 10.

    Args:
        view: the images that went there and back.
        original: what they started from.
        generators: the one that led there and the one that led back.

    Example:
        >>> Cycle().trains
        ('to_target', 'to_source')
    """

    view: str = "back_to_source"
    original: str = "source"
    generators: tuple[str, str] = ("to_target", "to_source")

    @property
    def views(self) -> tuple[str, ...]:
        """The images that went there and back."""
        return (self.view,)

    @property
    def trains(self) -> tuple[str, ...]:
        """Both generators."""
        return self.generators

    def __call__(self, step: Step) -> Tensor:
        """A scalar, 0 to 2."""
        return image_distance(step.view(self.view).image, step.view(self.original).image)


@dataclass(frozen=True)
class Identity:
    """Mean absolute difference of an image from itself redrawn in the style that it has.

    CycleGAN (ICCV 2017), section 5.2; its weight is half of the cycle's.

    Args:
        view: images of a domain, redrawn by the generator that leads to this domain.
        original: the same images.
        generator: that generator.

    Example:
        >>> Identity(view="same_source", original="source", generator="to_source").trains
        ('to_source',)
    """

    view: str = "same_target"
    original: str = "target"
    generator: str = "to_target"

    @property
    def views(self) -> tuple[str, ...]:
        """The redrawn images."""
        return (self.view,)

    @property
    def trains(self) -> tuple[str, ...]:
        """The generator."""
        return (self.generator,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar, 0 to 2."""
        return image_distance(step.view(self.view).image, step.view(self.original).image)


def image_distance(image: Tensor, original: Tensor) -> Tensor:
    """Mean absolute difference of images 0 to 1, counted on CycleGAN's scale of -1 to 1.

    Its weights of 10 and 5 are for that scale.

    Example:
        >>> float(image_distance(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)))
        2.0
    """
    return 2 * (image.float() - original.float()).abs().mean()


@dataclass(frozen=True)
class Semantic:
    """Difference of what a segmenter says before and after translation.

    BDL (CVPR 2019), its perceptual loss: between M(S) and M(F(S)), an image and its translation,
    and between M(S) and M(F^-1(F(S))), an image and its reconstruction, which both generators make.
    The side before is detached. With l the logits at the segmenter's stride and n the division of
    each class by its spread around its mean over the image, it is the mean of (n(l') - n(l))^2, or
    for `probabilities` the mean over pixels of |p' - p| summed over classes, which is 0 to 2.

    Differs: the paper prints an L1 norm; its code squares differences of logits that instance
    normalisation has levelled, and weighs the first by 0.1 and the second by 10, as recipes do.

    Args:
        before: the images as they were.
        after: the same images, redrawn once or twice.
        generator: who redraws them, each that does.
        compares: `normalised_logits` or `probabilities`.
        network: which segmenter; it is not trained by this.

    Example:
        >>> Semantic(before="target", after="as_source", generator="to_source").trains
        ('to_source',)
        >>> Semantic(after="back_to_source", generator=("to_target", "to_source")).trains
        ('to_target', 'to_source')
    """

    before: str = "source"
    after: str = "as_target"
    generator: str | tuple[str, ...] = "to_target"
    compares: Compares = "normalised_logits"
    network: str = "segmenter"

    @property
    def views(self) -> tuple[str, ...]:
        """Both: where the segmenter is trained at the same time, its forward is shared."""
        return (self.before, self.after)

    @property
    def trains(self) -> tuple[str, ...]:
        """The generator, or both."""
        return (self.generator,) if isinstance(self.generator, str) else self.generator

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        before = self._meaning(step.predict(self.before, self.network)).detach()
        after = self._meaning(step.predict(self.after, self.network))
        if self.compares == "probabilities":
            return (after - before).abs().sum(1).mean()
        return (after - before).square().mean()

    def _meaning(self, prediction: Prediction) -> Tensor:
        logits = prediction.logits()
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.compares == "probabilities":
            return logits.softmax(1)
        return functional.instance_norm(logits)


def _adam() -> dict[str, Any]:
    return {"kind": "adam", "lr": 2e-4, "betas": [0.5, 0.999]}


def _generator() -> dict[str, Any]:
    return {"kind": "generator", "optimiser": _adam(), "schedule": "linear"}


def adversarial_networks(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The generator and the discriminator of one direction, with CycleGAN's rates.

    Adam 2e-4, betas 0.5 and 0.999; the rate is held for half of the stage and then falls to 0.
    Differs: it falls at each iteration, CycleGAN's at each epoch.
    """
    judge = {"kind": "patch_discriminator", "optimiser": _adam(), "schedule": "linear"}
    name = settings.get("discriminator", "judge_target")
    return {**generator_network(settings), str(name): judge}


def cycle_networks(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Both generators, with CycleGAN's rates."""
    names = settings.get("generators", Cycle.generators)
    return {str(name): _generator() for name in names} if isinstance(names, list | tuple) else {}


def generator_network(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The generators that a term trains, with CycleGAN's rates."""
    named = settings.get("generator", "to_target")
    names = named if isinstance(named, list | tuple) else [named]
    return {str(name): _generator() for name in names}
