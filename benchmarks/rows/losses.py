"""Rows of the topic losses: the category triplet and the adversary of groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from row import Row, Sides
from torch import Tensor, nn
from torch.nn import functional

from segue.losses.conditional_adversarial import judged
from segue.losses.grouping import means
from segue.losses.triplet import category_triplet
from segue.models.conditional_discriminator import conditional_discriminator
from segue.training.step import Step

CLASSES, CHANNELS, GROUPS = 19, 256, 8
Distances = Callable[[Tensor, Tensor], Tensor]


def largest(ours: list[Tensor], plain: list[Tensor]) -> float:
    """The largest difference of a loss and its gradients, each as a share of its largest value."""
    pairs = zip(ours, plain, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def apart(ours: list[Tensor], plain: list[Tensor]) -> float:
    """How far a loss and its gradients are apart, each as a share of its norm."""
    pairs = zip(ours, plain, strict=True)
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


def gradients(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The loss, and what it asks of the inputs."""
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def class_by_class(feature: Tensor, centres: Tensor) -> Tensor:
    """Distances as they are written out: the norm of the difference to each centre."""
    direction = functional.normalize(feature, dim=1)
    return torch.stack([torch.norm(direction - one.view(1, -1, 1, 1), dim=1) for one in centres], 1)


def by_cdist(feature: Tensor, centres: Tensor) -> Tensor:
    """Distances by torch's own function for pairs of vectors."""
    rows = functional.normalize(feature, dim=1).permute(0, 2, 3, 1)
    found = torch.cdist(rows.flatten(0, 2), centres)
    return found.view(*rows.shape[:3], len(centres)).permute(0, 3, 1, 2)


def plain_triplet(feature: Tensor, label: Tensor, centres: Tensor, how: Distances) -> Tensor:
    """Equation 4 of coarse-to-fine as it is written, the mean over negative classes."""
    distance = how(feature, centres)
    known = label != 255
    own = torch.where(known, label, 0)[:, None]
    loss = functional.relu(distance.gather(1, own) - distance + 0.2)
    negative = torch.ones_like(distance).scatter(1, own, 0)
    pixels = (loss * negative).sum(1) / (len(centres) - 1)
    return (pixels * known).sum() / known.sum()


def triplet(height: int, width: int, how: Distances) -> Sides:
    """Both triplets of one feature."""
    torch.manual_seed(0)
    feature = torch.randn(1, CHANNELS, height, width).relu().requires_grad_()
    centres = functional.normalize(torch.randn(CLASSES, CHANNELS), dim=1)
    label = torch.randint(CLASSES, (1, height, width))
    label[torch.rand(label.shape) < 0.1] = 255
    present = torch.ones(CLASSES, dtype=torch.bool)
    return Sides(
        lambda: gradients(category_triplet(feature, label, centres, present), [feature]),
        lambda: gradients(plain_triplet(feature, label, centres, how), [feature]),
        largest,
    )


def groups() -> Sides:
    """The adversary's loss on one domain, with what it asks of P, H and the discriminator."""
    torch.manual_seed(0)
    judge = conditional_discriminator(CLASSES)
    # Q is small: with the first weights larger the scores depend on what is shown.
    with torch.no_grad():
        cast(nn.Conv2d, judge.layers[0]).weight.mul_(30)
    predicted, membership = (
        functional.interpolate(torch.randn(1, channels, 17, 33), (256, 512), mode="bilinear")
        .mul(3)
        .softmax(1)
        .requires_grad_()
        for channels in (CLASSES, GROUPS)
    )
    step = Step({}, {"discriminator": judge}, iteration=0)
    inputs = [predicted, membership, *judge.parameters()]

    def ours() -> list[Tensor]:
        shown = (predicted, membership, means(predicted, membership))
        return gradients(judged(step, "discriminator", shown, 0.0)[0], inputs)

    def plain() -> list[Tensor]:
        of_groups = membership[0, :, None] * predicted
        condition = functional.adaptive_avg_pool2d(of_groups, 1)
        product = torch.einsum("kihw,kj->kijhw", of_groups, condition.flatten(1)).flatten(1, 2)
        scores = judge.layers(product)
        wanted = torch.zeros_like(scores)
        # A mean for each group, summed.
        loss = functional.binary_cross_entropy_with_logits(scores, wanted) * GROUPS
        return gradients(loss, inputs)

    return Sides(ours, plain, apart)


ROWS: tuple[Row, ...] = (
    Row(
        "category triplet, 19 classes, feature 256x65x129",
        "the norm of the difference to each centre",
        lambda: triplet(65, 129, class_by_class),
        faster=7,
        within=1e-4,
        note="Differences are shares of the largest value of the loss and of its gradient.",
    ),
    Row(
        "category triplet, 19 classes, feature 256x129x257",
        "the norm of the difference to each centre",
        lambda: triplet(129, 257, class_by_class),
        faster=7,
        within=1e-4,
    ),
    Row(
        "category triplet, 19 classes, feature 256x65x129, beside cdist",
        "torch.cdist of normalised features",
        lambda: triplet(65, 129, by_cdist),
        within=1e-4,
    ),
    Row(
        "category triplet, 19 classes, feature 256x129x257, beside cdist",
        "torch.cdist of normalised features",
        lambda: triplet(129, 257, by_cdist),
        within=1e-4,
    ),
    Row(
        "conditional group discriminator, K = 8, 19 classes, 512x256, forward + backward",
        "the outer product of all groups, through the discriminator",
        groups,
        faster=10,
        memory=0.04,
        within=1e-2,
        repeats=3,
        note="Built group by group in a loop, the plain product takes 2.3 GB and 12 % less time. "
        "Only a quarter of the product's multiplications are left, five sixths of them in layers "
        "that both sides run alike; the rest of the ratio is what building and reading gigabytes "
        "costs, which differs by machine. "
        "Differences are shares of the norm of each gradient: in float32 both sides are as far "
        "from float64, where they agree to rounding, for values near 0 change the slope of the "
        "discriminator's leaky units.",
    ),
)
