"""Rows of the topic heads: DeepLab-v2's four dilated convolutions."""

from collections.abc import Sequence

import torch
from row import Row, Sides
from torch import Tensor
from torch.nn import functional

from segue.models.deeplab_v2 import DILATIONS, AtrousHead

# Of a step at 640x360 and 512x256, in maps of 65x129.
MAPS_OF_A_STEP = (46 * 81 + 33 * 65) / (65 * 129)


def four_convolutions(head: AtrousHead, feature: Tensor) -> Tensor:
    """The sum as AdaptSegNet's heirs write it."""
    maps = [
        functional.conv2d(feature, branch.weight, branch.bias, padding=rate, dilation=rate)
        for branch, rate in zip(head.branches, DILATIONS, strict=True)
    ]
    logits = maps[0]
    for one in maps[1:]:
        logits = logits + one
    return logits


def sides(*, backward: bool) -> Sides:
    torch.manual_seed(0)
    head, feature = AtrousHead(2048, 19), torch.randn(1, 2048, 65, 129).relu()
    learnt = [feature.requires_grad_(backward), *head.requires_grad_(backward).parameters()]
    target = torch.zeros(1, 65, 129, dtype=torch.int64)

    def results(logits: Tensor) -> Sequence[Tensor]:
        if not backward:
            return [logits]
        loss = functional.cross_entropy(logits, target)
        return [logits.detach(), *torch.autograd.grad(loss, learnt)]

    return Sides(
        ours=lambda: results(head(feature)),
        plain=lambda: results(four_convolutions(head, feature)),
        difference=difference,
    )


def difference(ours: Sequence[Tensor], plain: Sequence[Tensor]) -> float:
    """The largest, as a share of the largest value of its tensor."""
    pairs = zip(ours, plain, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


ROWS: tuple[Row, ...] = (
    Row(
        name="DeepLab-v2 head, forward, 2048 channels, 65x129, 19 classes",
        against="four dilated convolutions, added",
        make=lambda: sides(backward=False),
        faster=3.5,
        within=1e-5,
        uses={"pseudo-label image": 1},
        note="Nine tenths of our time are one product of matrices, as fast as the processor "
        "multiplies: the ratio is that of its speed to oneDNN's at dilated convolutions. "
        "Differences are shares of the largest value.",
    ),
    Row(
        name="DeepLab-v2 head, forward and backward, 2048 channels, 65x129, 19 classes",
        against="four dilated convolutions, added",
        make=lambda: sides(backward=True),
        faster=3.5,
        within=1e-5,
        uses={"iteration": MAPS_OF_A_STEP},
        repeats=3,
        note="Differences, of logits and of the gradients of feature and parameters, are shares of "
        "the largest value.",
    ),
)
