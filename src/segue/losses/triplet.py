"""Category triplet: features nearer to the centre of their class than to any other's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segue.errors import SegueError
from segue.label_space import IGNORE
from segue.models.centres import Centres, on_grid
from segue.runtime.precision import full_precision
from segue.training.step import Step

Negatives = Literal["mean", "sum", "hardest"]

CHANNELS = 32  # squared at a time
BAND = 1024  # pixels


@dataclass(frozen=True)
class CategoryTriplet:
    """How much farther a feature is from its class's centre than from others, plus a margin.

    Coarse-to-fine (CVPR 2021), equation 4: max(|G(x) - f_y| - |G(x) - f_c| + margin, 0), G being
    division by the Euclidean norm, distances not squared. Over the negative classes c it is
    aggregated as `negatives` says, then averaged over the labelled pixels of an image, then over
    images. Labels are taken to the feature's grid by `segue.models.centres.on_grid`.

    Differs: the sum over C of the printed equation is a mean by default, so that the weight means
    the same for any number of classes; `negatives: sum` is the equation as printed, C - 1 times
    heavier. Classes without a centre are neither negatives nor averaged over. The mean is over the
    pixels of each image and then over images, where the equation has all images' pixels in one.

    Args:
        view: whose labels; any view that has them, such as a target with pseudo-labels.
        feature: which feature of the segmenter.
        centres: the network that holds the centres, filled by a stage of kind `centres`.
        margin: by how much the distances should differ.
        negatives: `mean` or `sum` over all other classes, or the `hardest`, which is nearest.
        network: which segmenter.

    Example:
        >>> CategoryTriplet(negatives="hardest").trains
        ('segmenter',)
    """

    view: str = "source"
    feature: str = "penultimate"
    centres: str = "centres"
    margin: float = 0.2
    negatives: Negatives = "mean"
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
        """A scalar; an image without a pixel to average over counts as 0.

        Raises:
            SegueError: the centres are empty, or were made of another feature.
        """
        batch = step.view(self.view)
        assert batch.label is not None, f"the view {self.view} carries no labels"
        feature = step.predict(self.view, self.network).feature(self.feature)
        held = cast(Centres, step.network(self.centres))
        if held.value.shape[1] != feature.shape[1]:
            raise SegueError(
                f"centres of {held.value.shape[1]} channels do not fit {self.feature!r}, which has "
                f"{feature.shape[1]}",
                where=f"networks.{self.centres}",
                fix=f"set its `channels` to {feature.shape[1]} and take centres of that feature",
            )
        size = (int(feature.shape[-2]), int(feature.shape[-1]))
        weight = None if batch.weight is None else on_grid(batch.weight, size)
        return category_triplet(
            feature,
            on_grid(batch.label, size),
            held.value,
            held.present(),
            margin=self.margin,
            negatives=self.negatives,
            weight=weight,
        )


def category_triplet(
    feature: Tensor,
    label: Tensor,
    centres: Tensor,
    present: Tensor,
    *,
    margin: float = 0.2,
    negatives: Negatives = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Triplet loss per image over its labelled pixels, averaged over the batch.

    Args:
        feature: [B, D, h, w].
        label: [B, h, w] int64, 255 is ignored.
        centres: [C, D] of length 1.
        present: [C] bool, the classes that have a centre.
        margin: by how much the distances should differ.
        negatives: how negative classes are aggregated.
        weight: [B, h, w] or None; as in cross-entropy, it scales pixels and not their mean.

    Example:
        >>> f, x = torch.eye(3), torch.eye(3)[None, :, :1, None]
        >>> label = torch.tensor([[[0]]])
        >>> float(category_triplet(x, label, f, f.any(1)))
        0.0
        >>> round(float(category_triplet(x, label + 1, f, f.any(1), negatives="hardest")), 4)
        1.6142
    """
    distance = distances(feature, centres)
    known = label != IGNORE
    own = label.masked_fill(~known, 0)
    known = known & present[own]
    to_own = distance.gather(1, own[:, None])
    # A pixel's own class and those without a centre are no negatives.
    negative = present[:, None, None].expand_as(distance).scatter(1, own[:, None], False)
    loss = (to_own - distance + margin).clamp(min=0).where(negative, 0)
    match negatives:
        case "mean":
            pixels = loss.sum(1) / (present.sum() - 1).clamp(min=1)
        case "sum":
            pixels = loss.sum(1)
        case "hardest":
            pixels = loss.amax(1)
    if weight is not None:
        pixels = pixels * weight
    pixels = pixels.where(known, 0).flatten(1)
    return (pixels.sum(1) / known.flatten(1).sum(1).clamp(min=1)).mean()


def distances(feature: Tensor, centres: Tensor) -> Tensor:
    """|x / |x| - f| of features [B, D, h, w] to centres [C, D]: [B, C, h, w], in full precision.

    By |a - b|^2 = 1 + |b|^2 - 2 a b, from one product of matrices. Where the distance, or x
    itself, is 0 no gradient passes; none passes to the centres.

    Example:
        >>> found = distances(torch.tensor([3.0, 0.0]).view(1, 2, 1, 1), torch.eye(2))
        >>> [round(float(one), 4) for one in found.flatten()]
        [0.0, 1.4142]
    """
    # Autocast would give the product to bfloat16, in which small distances vanish.
    with full_precision(feature):
        x = feature if feature.dtype == torch.float64 else feature.float()
        centres = centres.to(x.dtype)
        cosines: Tensor = _Cosines.apply(x.flatten(2), centres)
        squared = torch.sub(1 + centres.square().sum(1)[:, None], cosines, alpha=2)
        found = squared.clamp(min=torch.finfo(x.dtype).tiny).sqrt()
        return found.view(len(x), -1, *x.shape[2:])


class _Cosines(torch.autograd.Function):
    """f x / |x| of features x [B, D, N] with centres f [C, D]: [B, C, N].

    Neither x / |x| nor its gradient is ever made: the gradient of x is
    sum over c of f_c g_c / |x| - x (sum over c of g_c cos_c) / |x|^2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, centres: Tensor) -> Tensor:
        # By channels, for a square as large as the feature takes longer to allocate than to fill.
        squares = torch.stack([part.square().sum(1) for part in torch.split(x, CHANNELS, 1)]).sum(0)
        # 1 / |x| of a feature that is 0 would send it an endless gradient.
        shrink = squares.rsqrt().masked_fill(squares == 0, 0)[:, None]
        cosines = (centres @ x).mul_(shrink)
        ctx.save_for_backward(x, centres, shrink, cosines)
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, centres, shrink, cosines = ctx.saved_tensors
        onto = (gradient * cosines).sum(1, keepdim=True).mul_(shrink).mul_(-shrink)
        across = gradient * shrink
        found = torch.empty_like(x)
        # A band of a CPU's cache at a time: what is written first is still there for the product.
        band = BAND if x.device.type == "cpu" else max(x.shape[2], 1)
        for image in range(len(x)):
            for begin in range(0, x.shape[2], band):
                here = (image, slice(None), slice(begin, begin + band))
                torch.mul(x[here], onto[here], out=found[here])
                found[here].addmm_(centres.T, across[here])
        return found, None


def default_networks(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The centres, which a recipe fills with `load_from`."""
    return {str(settings.get("centres", "centres")): {"kind": "centres"}}
