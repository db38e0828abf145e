"""Style alignment: channel statistics of early features, adversarially or by squared error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from segue.losses.adversarial import SOURCE, TARGET, accuracy, domain_loss
from segue.runtime.precision import full_precision
from segue.training.step import Step

FEATURES = ("layer1", "layer2")
Moves = Literal["source", "target"]


@dataclass(frozen=True)
class FoolStyle:
    """Binary cross-entropy of one domain's styles scored against the other's label.

    Category-adaptive thresholds (ICASSP 2021), section 2.3 and equation 5, its part for the
    segmenter: "to force the style information on the source domain close that on the target
    domain", so the source's means against the target's label, one discriminator for each feature,
    summed.
    """

    features: tuple[str, ...]
    discriminator: str
    view: str = "source"
    label: float = TARGET
    network: str = "segmenter"

    @property
    def views(self) -> tuple[str, ...]:
        """The domain whose style moves."""
        return (self.view,)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter."""
        return (self.network,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        losses = []
        for name in self.features:
            shown = channel_means(step, self.view, name, self.network)
            scores = step.network(f"{self.discriminator}_{name}")(shown[:, None])
            losses.append(domain_loss(scores, self.label))
        return torch.stack(losses).sum()


@dataclass(frozen=True)
class TellStylesApart:
    """Binary cross-entropy of both domains' styles against their labels, each half weight.

    Category-adaptive thresholds (ICASSP 2021), section 2.1, its part for the discriminators:
    source 0, target 1, summed over features. Records the accuracy of each.

    Differs: the original GAN loss that section 2.3 names sums both domains in full; each is half
    here, as in BDL's output discriminator.
    """

    features: tuple[str, ...]
    discriminator: str
    source: str = "source"
    target: str = "target"
    network: str = "segmenter"

    @property
    def views(self) -> tuple[str, ...]:
        """Both."""
        return (self.source, self.target)

    @property
    def trains(self) -> tuple[str, ...]:
        """The discriminators, one for each feature."""
        return tuple(f"{self.discriminator}_{name}" for name in self.features)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        losses = []
        for name, judge in zip(self.features, self.trains, strict=True):
            correct = []
            for view, label in ((self.source, SOURCE), (self.target, TARGET)):
                shown = channel_means(step, view, name, self.network).detach()
                scores = step.network(judge)(shown[:, None])
                losses.append(domain_loss(scores, label) / 2)
                correct.append(accuracy(scores, label))
            step.record(f"accuracy/{judge}", torch.stack(correct).mean())
        return torch.stack(losses).sum()


def style_adversarial(
    *,
    features: tuple[str, ...] = FEATURES,
    source: str = "source",
    target: str = "target",
    moves: Moves = "source",
    network: str = "segmenter",
    discriminator: str = "style",
) -> dict[str, FoolStyle | TellStylesApart]:
    """The two sides of an adversary that sees channel means; the recipe's weight is for `fool`.

    Category-adaptive thresholds (ICASSP 2021), section 2.1: the style gap bridging mechanism.

    Args:
        features: whose channel means; the first two stages, "two front sub-encoders".
        source: the view that is labelled 0.
        target: the view that is labelled 1.
        moves: which of the two is made to look like the other: the source, as section 2.3 has it,
            or the target, as adversaries on outputs do.
        network: which segmenter.
        discriminator: first part of the discriminators' names, `style_layer1` and so on.

    Example:
        >>> style_adversarial()["tell_apart"].trains
        ('style_layer1', 'style_layer2')
        >>> style_adversarial()["fool"].views, style_adversarial(moves="target")["fool"].views
        (('source',), ('target',))
    """
    moved = {"source": (source, TARGET), "target": (target, SOURCE)}[moves]
    return {
        "fool": FoolStyle(features, discriminator, *moved, network),
        "tell_apart": TellStylesApart(features, discriminator, source, target, network),
    }


@dataclass(frozen=True)
class StyleGram:
    """Mean squared error between the Gram matrices of source and target features.

    Category-adaptive thresholds (ICASSP 2021), table 3, after Gatys et al. (2016): entries are
    means over the pixels of products of two channels, errors are averaged over entries, image i
    of the source against image i of the target, and summed over features. Four times the loss of
    Gatys et al., equation 4, which carries a factor of 1/4.

    Args:
        features: which features.
        source: one view.
        target: the other view.
        network: which segmenter.

    Example:
        >>> StyleGram().views
        ('source', 'target')
    """

    features: tuple[str, ...] = FEATURES
    source: str = "source"
    target: str = "target"
    network: str = "segmenter"

    @property
    def views(self) -> tuple[str, ...]:
        """Both."""
        return (self.source, self.target)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter."""
        return (self.network,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        return squared_error(step, self, gram)


@dataclass(frozen=True)
class StyleMoments:
    """Mean squared error between channel means, and between channel standard deviations.

    Category-adaptive thresholds (ICASSP 2021), table 3, "mean & std": errors are averaged over
    channels, image i of the source against image i of the target, and summed over the two
    statistics and over features.

    Args:
        features: which features.
        source: one view.
        target: the other view.
        network: which segmenter.

    Example:
        >>> StyleMoments(features=("layer1",)).trains
        ('segmenter',)
    """

    features: tuple[str, ...] = FEATURES
    source: str = "source"
    target: str = "target"
    network: str = "segmenter"

    @property
    def views(self) -> tuple[str, ...]:
        """Both."""
        return (self.source, self.target)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter."""
        return (self.network,)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        return squared_error(step, self, moments)


def channel_means(step: Step, view: str, feature: str, network: str = "segmenter") -> Tensor:
    """The mean of each channel of a feature, [B, D] in full precision; made once for all terms."""
    return step.once(
        ("channel means", view, feature, network),
        lambda: step.predict(view, network).feature(feature).float().mean((2, 3)),
    )


def squared_error(
    step: Step, term: StyleGram | StyleMoments, statistics: Callable[[Tensor], Sequence[Tensor]]
) -> Tensor:
    """Mean squared error of statistics of source and target features, summed over them all."""
    losses = []
    for name in term.features:
        source, target = (
            statistics(step.predict(view, term.network).feature(name).float())
            for view in term.views
        )
        losses += [functional.mse_loss(a, b) for a, b in zip(source, target, strict=True)]
    return torch.stack(losses).sum()


def gram(feature: Tensor) -> tuple[Tensor]:
    """Mean product of every two channels, [B, D, D], of features [B, D, h, w].

    Example:
        >>> gram(torch.full((1, 2, 3, 3), 2.0))[0].tolist()
        [[[4.0, 4.0], [4.0, 4.0]]]
    """
    # Autocast would take this product to bfloat16.
    with full_precision(feature):
        flat = feature.flatten(2)
        return (flat @ flat.mT / flat.shape[2],)


def moments(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, each [B, D], of features [B, D, h, w].

    1e-5 is added to the variance, as AdaIN's code does, where the root has no finite gradient at 0.

    Example:
        >>> [round(float(x), 3) for x in moments(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2))]
        [2.0, 1.0]
    """
    variance, mean = torch.var_mean(feature, (2, 3), correction=0)
    return mean, (variance + 1e-5).sqrt()


def default_networks(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The discriminators that a style adversary trains against where the recipe names none.

    Adam 1e-4, betas 0.9 and 0.99, a tenth of the rate every 50k iterations: category-adaptive
    thresholds (ICASSP 2021), section 3.2.
    """
    optimiser = {"kind": "adam", "lr": 1e-4, "betas": [0.9, 0.99]}
    schedule = {"kind": "step", "every": 50000, "factor": 0.1}
    described = {"kind": "style_discriminator", "optimiser": optimiser, "schedule": schedule}
    name = settings.get("discriminator", "style")
    return {f"{name}_{feature}": described for feature in settings.get("features", FEATURES)}
