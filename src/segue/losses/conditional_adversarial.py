"""The adversary of cross-domain grouping, conditioned on the classes of each group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segue.losses.adversarial import SOURCE, TARGET, accuracy, domain_loss, patches
from segue.losses.grouping import GroupingInput, Groups
from segue.losses.grouping import default_networks as grouping_networks
from segue.models.conditional_discriminator import ConditionalDiscriminator
from segue.training.step import Step


@dataclass(frozen=True)
class GroupsShown:
    """What a conditional discriminator is shown of each group of a prediction.

    Args:
        groups: which groups.
        patch: height and width in pixels of one random crop of F per image, as in local alignment
            (ACCV 2020), section 3.1; the condition Q stays that of the whole map.
    """

    groups: Groups
    patch: tuple[int, int] | None = None

    def __call__(self, step: Step, view: str) -> tuple[Tensor, Tensor, Tensor]:
        """P [B, C, H, W] and H [B, K, H, W], whose products are F, and Q [B, K, C]."""
        predicted, membership, condition = (
            part(step, view)
            for part in (self.groups.predicted, self.groups.membership, self.groups.means)
        )
        if self.patch is not None:
            # Both are cut at the same place.
            predicted, membership = (
                patches(step, view, one, self.patch) for one in (predicted, membership)
            )
        return predicted, membership, condition


@dataclass(frozen=True)
class FoolGroups:
    """Binary cross-entropy of the target's groups scored against the source's label.

    Cross-domain grouping (AAAI 2021), equation 4, its part for the segmenter and the grouping
    network: the sum over k of -log of what the discriminator gives F_T^k x Q_T^k for the source.

    Differs: where equation 7 maximises the discriminator's loss, source included, the target is
    scored against the source's label, as all methods do that this one builds on.
    Differs: the gradient also passes through the condition Q, as equation 4 is written; the public
    code of CDAN (Long et al., NeurIPS 2018), whose framework it is, detaches its condition.
    """

    shown: GroupsShown
    discriminator: str
    view: str = "target"
    learnt: bool = True

    @property
    def views(self) -> tuple[str, ...]:
        """The target."""
        return (self.view,)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter and the grouping network."""
        return self.shown.groups.trained(self.learnt)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        loss, _ = judged(step, self.discriminator, self.shown(step, self.view), SOURCE)
        return loss


@dataclass(frozen=True)
class TellGroupsApart:
    """Binary cross-entropy of both domains' groups against their labels, each half weight.

    Cross-domain grouping (AAAI 2021), equation 4: source 0, target 1, summed over groups. Records
    the discriminator's accuracy over all groups.

    Differs: equation 7 has the discriminator maximise this loss, a slip of the sign; and equation 4
    sums both domains in full, of which each is half here, as in BDL.
    """

    shown: GroupsShown
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
        losses, accuracies = [], []
        for view, label in ((self.source, SOURCE), (self.target, TARGET)):
            predicted, membership, condition = self.shown(step, view)
            shown = (predicted.detach(), membership.detach(), condition.detach())
            loss, accuracy = judged(step, self.discriminator, shown, label)
            losses.append(loss / 2)
            accuracies.append(accuracy)
        step.record(f"accuracy/{self.discriminator}", torch.stack(accuracies).mean())
        return torch.stack(losses).sum()


def judged(
    step: Step, discriminator: str, shown: tuple[Tensor, Tensor, Tensor], label: float
) -> tuple[Tensor, Tensor]:
    """The sum over groups of the discriminator's loss on F x Q, and its accuracy.

    Args:
        step: holds the discriminator.
        discriminator: its name.
        shown: P [B, C, H, W], H [B, K, H, W] and Q [B, K, C].
        label: the domain that each should be taken for.
    """
    judge = cast(ConditionalDiscriminator, step.network(discriminator))
    predicted, membership = judge.blocks(shown[0]), judge.blocks(shown[1])
    right: list[Tensor] = []

    def loss(whole: Tensor, belongs: Tensor, means: Tensor) -> Tensor:
        scores = judge.score(belongs * whole, means)
        right.append(accuracy(scores, label))
        return domain_loss(scores, label)

    # Image by image: a CPU's cache holds the maps of one, and there is nothing to put together.
    images = []
    for whole, belongs, means in zip(
        *(torch.split(one, 1) for one in (predicted, membership, shown[2])), strict=True
    ):
        groups = list(zip(torch.split(belongs, 1, 1), means.unbind(1), strict=True))
        images.append(sum_one_by_one(loss, whole, groups, judge))
    return torch.stack(images).mean(), torch.stack(right).mean()


def sum_one_by_one(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    common: Tensor,
    groups: list[tuple[Tensor, Tensor]],
    network: nn.Module,
) -> Tensor:
    """The sum of `loss(common, *group)` over groups, never with the graphs of two at once.

    Each group's gradients are taken as soon as its loss is known, so that memory does not grow
    with the number of groups and nothing is computed twice.

    Args:
        loss: a scalar of the common tensor and those of a group, through the network.
        common: what every group is shown.
        groups: the tensors of each group.
        network: whose parameters the loss may train.

    Example:
        >>> a = torch.tensor(3.0, requires_grad=True)
        >>> ones = torch.ones(())
        >>> times = lambda whole, x, y: whole * x * y
        >>> total = sum_one_by_one(times, a, [(ones, ones), (ones, 4 * ones)], nn.Identity())
        >>> total.backward()
        >>> float(total.detach()), float(a.grad)
        (15.0, 5.0)
    """
    inputs = [common, *(one for group in groups for one in group), *network.parameters()]
    summed: Tensor = _SumOneByOne.apply(loss, len(groups), *inputs)
    return summed


class _SumOneByOne(torch.autograd.Function):
    """See `sum_one_by_one`; inputs: the common tensor, those of each group, the parameters."""

    @staticmethod
    def forward(ctx: Any, loss: Callable[..., Tensor], count: int, *inputs: Tensor) -> Tensor:
        # A parameter must stay itself, for the network computes with it.
        leaves = [x if x.is_leaf else x.detach().requires_grad_() for x in inputs]
        wanted = [index for index, leaf in enumerate(leaves) if leaf.requires_grad]
        gradients: list[Tensor | None] = [None] * len(leaves)
        total = inputs[0].new_zeros(())
        for group in range(count):
            with torch.enable_grad():
                part = loss(leaves[0], *leaves[1 + 2 * group : 3 + 2 * group])
            total = total + part.detach()
            if not wanted:
                continue
            found = torch.autograd.grad(part, [leaves[i] for i in wanted], allow_unused=True)
            for index, gradient in zip(wanted, found, strict=True):
                if gradient is not None:
                    known = gradients[index]
                    # A copy, for autograd may have given the same tensor to another input.
                    gradients[index] = gradient.clone() if known is None else known.add_(gradient)
        ctx.gradients = gradients
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if one is None else gradient * one for one in ctx.gradients)


def conditional_adversarial(
    *,
    patch: int | tuple[int, int] | None = None,
    grouping: str = "grouping",
    grouping_input: GroupingInput = "probabilities",
    head: str = "main",
    network: str = "segmenter",
    discriminator: str = "discriminator",
    source: str = "source",
    target: str = "target",
    learnt: bool = True,
) -> dict[str, FoolGroups | TellGroupsApart]:
    """The two sides of an adversary of groups; the weight of the recipe is for `fool`.

    Cross-domain grouping (AAAI 2021), equation 4. The outer product of F^k and Q^k is never built:
    see `segue.models.conditional_discriminator`. With one group it is a global adversary that
    also knows the mean of the map.

    Args:
        patch: side, or height and width, of a random crop of F; None: all of it.
        grouping: the name of the grouping network.
        grouping_input: what is grouped, see `segue.losses.grouping.Groups`.
        head: which head of the segmenter.
        network: which segmenter.
        discriminator: the name of the conditional discriminator.
        source: the view that is labelled 0.
        target: the view that is labelled 1 and made to look like 0.
        learnt: whether the grouping network is trained along; not so for fixed groupings.

    Example:
        >>> conditional_adversarial()["fool"].trains
        ('segmenter', 'grouping')
    """
    size = (patch, patch) if isinstance(patch, int) else patch
    shown = GroupsShown(Groups(grouping, grouping_input, head, network), size)
    return {
        "fool": FoolGroups(shown, discriminator, target, learnt),
        "tell_apart": TellGroupsApart(shown, discriminator, source, target),
    }


def default_networks(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The discriminator and the grouping network where the recipe describes none.

    Cross-domain grouping (AAAI 2021), "Implementation details": Adam 1e-4, its betas as the field
    has them.
    """
    optimiser = {"kind": "adam", "lr": 1e-4, "betas": [0.9, 0.99]}
    name = str(settings.get("discriminator", "discriminator"))
    judge = {name: {"kind": "conditional_discriminator", "optimiser": optimiser}}
    return judge | grouping_networks(settings)
