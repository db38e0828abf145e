"""Cross-domain grouping: groups consistent across domains, distinct, and with the same classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from segue.runtime.precision import full_precision
from segue.training.step import Step

GroupingInput = Literal["probabilities", "logits"]

SMALLEST = 1e-7  # what equation 5 takes a logarithm of at least


@dataclass(frozen=True)
class Groups:
    """What K groups hold of a view's prediction, each made once for all terms.

    Cross-domain grouping (AAAI 2021), "Cross-Domain grouping network": F^k = H^k * P, with P the
    prediction and H = grouping(P). F itself is never kept, it is K times as large as P.

    Differs: the text takes P "before applying a softmax layer", but equation 2 needs means that
    are not negative and equation 5 takes a logarithm: P are probabilities unless `grouping_input`
    says `logits`. Fixed groupings need probabilities.

    Args:
        grouping: the name of the grouping network.
        grouping_input: what P is.
        head: which head of the segmenter.
        network: which segmenter.

    Example:
        >>> Groups() == Groups(grouping="grouping")
        True
    """

    grouping: str = "grouping"
    grouping_input: GroupingInput = "probabilities"
    head: str = "main"
    network: str = "segmenter"

    def predicted(self, step: Step, view: str) -> Tensor:
        """P, [B, C, H, W] at the size of the view."""
        prediction = step.predict(view, self.network)
        if self.grouping_input == "probabilities":
            return prediction.probabilities(self.head)
        return prediction.upsampled(self.head).float()

    def membership(self, step: Step, view: str) -> Tensor:
        """H, [B, K, H, W]."""
        return self._once(
            "membership",
            step,
            view,
            lambda: step.network(self.grouping)(self.predicted(step, view)).float(),
        )

    def means(self, step: Step, view: str) -> Tensor:
        """Q, the spatial means of F, [B, K, C]."""
        return self._once(
            "means",
            step,
            view,
            lambda: means(self.predicted(step, view), self.membership(step, view)),
        )

    def maxima(self, step: Step, view: str) -> Tensor:
        """M, the spatial maxima of F, [B, K, C]."""
        return self._once(
            "maxima",
            step,
            view,
            lambda: maxima(self.predicted(step, view), self.membership(step, view)),
        )

    def _once(self, what: str, step: Step, view: str, compute: Callable[[], Tensor]) -> Tensor:
        return step.once((self, what, view), compute)

    def trained(self, learnt: bool) -> tuple[str, ...]:
        """The networks that a loss of these groups trains."""
        return (self.network, self.grouping) if learnt else (self.network,)


@dataclass(frozen=True)
class GroupConsistency:
    """Squared distance between the class means of each group in source and target.

    Cross-domain grouping (AAAI 2021), equation 1: the sum over k of |Q_S^k - Q_T^k|^2, image i of
    the source against image i of the target.

    Args:
        source: one view.
        target: the other view; where it has fewer images they serve again, and likewise.
        grouping: the name of the grouping network.
        grouping_input: what is grouped, see `Groups`.
        head: which head of the segmenter.
        network: which segmenter.
        learnt: whether the grouping network is trained along; not so for fixed groupings.

    Example:
        >>> GroupConsistency().trains, GroupConsistency(learnt=False).trains
        (('segmenter', 'grouping'), ('segmenter',))
    """

    source: str = "source"
    target: str = "target"
    grouping: str = "grouping"
    grouping_input: GroupingInput = "probabilities"
    head: str = "main"
    network: str = "segmenter"
    learnt: bool = True

    @property
    def groups(self) -> Groups:
        """Of which groups."""
        return Groups(self.grouping, self.grouping_input, self.head, self.network)

    @property
    def views(self) -> tuple[str, ...]:
        """Both."""
        return (self.source, self.target)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter and the grouping network."""
        return self.groups.trained(self.learnt)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        return consistency(*(self.groups.means(step, view) for view in self.views))


@dataclass(frozen=True)
class GroupOrthogonality:
    """Cosines between the class means of different groups of one domain, summed.

    Cross-domain grouping (AAAI 2021), equations 2 and 3: over both domains and all ordered pairs.

    Differs: a group with itself is left out, whose cosine is constant.

    Args:
        source: one view.
        target: the other view.
        grouping: the name of the grouping network.
        grouping_input: what is grouped, see `Groups`.
        head: which head of the segmenter.
        network: which segmenter.
        learnt: whether the grouping network is trained along; not so for fixed groupings.

    Example:
        >>> GroupOrthogonality(source="source_seen").views
        ('source_seen', 'target')
    """

    source: str = "source"
    target: str = "target"
    grouping: str = "grouping"
    grouping_input: GroupingInput = "probabilities"
    head: str = "main"
    network: str = "segmenter"
    learnt: bool = True

    @property
    def groups(self) -> Groups:
        """Of which groups."""
        return Groups(self.grouping, self.grouping_input, self.head, self.network)

    @property
    def views(self) -> tuple[str, ...]:
        """Both."""
        return (self.source, self.target)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter and the grouping network."""
        return self.groups.trained(self.learnt)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        of_domains = [orthogonality(self.groups.means(step, view)) for view in self.views]
        return torch.stack(of_domains).sum()


@dataclass(frozen=True)
class ClassEquivalence:
    """In each group, every class that the source has should be certain somewhere in the target.

    Cross-domain grouping (AAAI 2021), equation 5: minus the sum over groups and classes of
    [m_S >= threshold] log m_T, image i of the source against image i of the target.

    Differs: m_T is taken as 1e-7 at least, so that the logarithm stays finite.

    Args:
        source: the view whose classes count; it learns nothing from this.
        target: the other view; where it has fewer images they serve again, and likewise.
        threshold: tau, the source's maximum from which a class is there.
        grouping: the name of the grouping network.
        grouping_input: what is grouped, see `Groups`.
        head: which head of the segmenter.
        network: which segmenter.
        learnt: whether the grouping network is trained along; not so for fixed groupings.

    Example:
        >>> ClassEquivalence().threshold
        0.05
    """

    source: str = "source"
    target: str = "target"
    threshold: float = 0.05
    grouping: str = "grouping"
    grouping_input: GroupingInput = "probabilities"
    head: str = "main"
    network: str = "segmenter"
    learnt: bool = True

    @property
    def groups(self) -> Groups:
        """Of which groups."""
        return Groups(self.grouping, self.grouping_input, self.head, self.network)

    @property
    def views(self) -> tuple[str, ...]:
        """Both."""
        return (self.source, self.target)

    @property
    def trains(self) -> tuple[str, ...]:
        """The segmenter and the grouping network."""
        return self.groups.trained(self.learnt)

    def __call__(self, step: Step) -> Tensor:
        """A scalar."""
        source, target = (self.groups.maxima(step, view) for view in self.views)
        return class_equivalence(source, target, threshold=self.threshold)


def means(predicted: Tensor, membership: Tensor) -> Tensor:
    """Q = spatial mean of H^k * P, [B, K, C], of P [B, C, H, W] and H [B, K, H, W].

    Example:
        >>> means(torch.tensor([[[[0.5, 1.0]]]]), torch.tensor([[[[1.0, 0.5]]]])).tolist()
        [[[0.5]]]
    """
    # Autocast would take this product to bfloat16.
    with full_precision(predicted):
        flat = predicted.flatten(2)
        return membership.flatten(2) @ flat.mT / flat.shape[2]


def maxima(predicted: Tensor, membership: Tensor) -> Tensor:
    """M = spatial maximum of H^k * P, [B, K, C], of P [B, C, H, W] and H [B, K, H, W].

    As in max-pooling the gradient goes to one pixel, the first of the largest.

    Example:
        >>> maxima(torch.tensor([[[[0.5, 1.0]]]]), torch.tensor([[[[1.0, 0.25]]]])).tolist()
        [[[0.5]]]
    """
    flat, members = predicted.flatten(2), membership.flatten(2)
    # Where they are is found group by group and without a graph; only those pixels enter it.
    with torch.no_grad():
        groups = [(flat * one[:, None]).argmax(2) for one in members.unbind(1)]
        place = torch.stack(groups, 1)
    return flat.gather(2, place.mT).mT * members.gather(2, place)


def consistency(source: Tensor, target: Tensor) -> Tensor:
    """Sum over groups of |Q_S^k - Q_T^k|^2 per pair of images, averaged, of two [B, K, C].

    Example:
        >>> float(consistency(torch.zeros(1, 2, 3), torch.ones(2, 2, 3)))
        6.0
    """
    source, target = paired(source, target)
    return (source - target).square().sum((1, 2)).mean()


def orthogonality(of_groups: Tensor) -> Tensor:
    """Sum of cosines over ordered pairs of different groups per image, averaged, of Q [B, K, C].

    A group without a member has no direction: its cosines are 0.

    Example:
        >>> float(orthogonality(torch.tensor([[[1.0, 0.0], [0.0, 3.0], [0.0, 2.0]]])))
        2.0
    """
    norm = torch.linalg.vector_norm(of_groups, dim=2, keepdim=True)
    direction = of_groups / norm.where(norm > 0, torch.inf)
    with full_precision(of_groups):
        cosines = direction @ direction.mT
    own = cosines.diagonal(dim1=1, dim2=2).sum(1)
    others: Tensor = cosines.sum((1, 2)) - own
    return others.mean()


def class_equivalence(source: Tensor, target: Tensor, *, threshold: float = 0.05) -> Tensor:
    """Minus the sum of log M_T where M_S >= threshold per pair, averaged, of two [B, K, C].

    Example:
        >>> source, target = torch.tensor([[[0.9, 0.01]]]), torch.tensor([[[0.5, 0.5]]])
        >>> round(float(class_equivalence(source, target)), 4)
        0.6931
    """
    source, target = paired(source.detach(), target)
    logarithm = target.clamp(min=SMALLEST).log()
    return -logarithm.where(source >= threshold, 0).sum((1, 2)).mean()


def paired(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Image i with image i; of the smaller batch images serve again from the first on.

    Example:
        >>> [one.tolist() for one in paired(torch.arange(3), torch.arange(2))]
        [[0, 1, 2], [0, 1, 0]]
    """
    images = torch.arange(max(len(source), len(target)))
    return source[images % len(source)], target[images % len(target)]


def default_networks(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The grouping network that these losses train where the recipe describes none.

    Cross-domain grouping (AAAI 2021), "Implementation details": SGD 1e-3, momentum 0.9; weight
    decay as for the segmenter. A fixed grouping is described by the recipe, which fills it.
    """
    if not settings.get("learnt", True):
        return {}
    optimiser = {"kind": "sgd", "lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}
    name = str(settings.get("grouping", "grouping"))
    return {name: {"kind": "grouping", "optimiser": optimiser}}
