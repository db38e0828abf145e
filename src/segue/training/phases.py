"""What is minimised by whom: terms, objectives, phases, and how they follow from terms."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from segue.training.step import Step, View

T = TypeVar("T")


class Term(Protocol):
    """One idea of a loss: a function of the step.

    `views` are the views whose graph it needs at once; terms that share one run in one group.
    `trains` are the networks that it is meant to train. A term that reads features of a prediction
    which another objective made has besides `features`, their names: they are kept for it.
    """

    @property
    def views(self) -> tuple[str, ...]:
        """Names of views."""

    @property
    def trains(self) -> tuple[str, ...]:
        """Names of networks."""

    def __call__(self, step: Step) -> Tensor:
        """A scalar: per image, then averaged over the batch."""


@dataclass(frozen=True)
class Weighted:
    """A term with its name and weight in a sum."""

    name: str
    term: Term
    weight: float = 1.0


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms that trains some networks while all others are held fixed.

    Args:
        trains: names of the networks that receive gradients.
        terms: what is summed, in the order in which it is computed.
        views: the run's views, whose `parents` tell which of them share a graph.
    """

    trains: tuple[str, ...]
    terms: tuple[Weighted, ...]
    views: Mapping[str, View]

    @property
    def groups(self) -> list[list[Weighted]]:
        """Terms that share a forward pass together; one group is freed before the next runs."""
        return connected(self.terms, lambda weighted: self._roots(weighted.term.views))

    def _roots(self, names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for name in names:
            parents = self.views[name].parents if name in self.views else ()
            found |= {name} | self._roots(parents)
        return found


@dataclass(frozen=True)
class Phase:
    """Objectives whose gradients are taken from the same weights, then one update of them all.

    Args:
        objectives: in order; later ones reuse, without gradient, what earlier ones computed.
        repeat: how many times in each iteration.
    """

    objectives: tuple[Objective, ...]
    repeat: int = 1

    @property
    def trains(self) -> tuple[str, ...]:
        """Every network that the phase updates."""
        return tuple(dict.fromkeys(name for one in self.objectives for name in one.trains))

    @property
    def features(self) -> frozenset[str]:
        """Features of predictions that some term reads after the objective that made them."""
        terms = (weighted.term for one in self.objectives for weighted in one.terms)
        return frozenset(name for term in terms for name in getattr(term, "features", ()))


def usual_phases(terms: Sequence[Weighted], views: Mapping[str, View]) -> list[Phase]:
    """One phase: an objective for each set of networks that terms tie together.

    The segmenter with whatever is trained along with it comes first where its terms do, then the
    discriminators, which see the same predictions detached: the order in which the field's
    adversarial methods take gradients.

    Example:
        >>> from segue.losses.cross_entropy import CrossEntropy
        >>> phases = usual_phases([Weighted("segmentation", CrossEntropy())], {})
        >>> phases[0].trains
        ('segmenter',)
    """
    objectives = []
    for tied in connected(terms, lambda weighted: set(weighted.term.trains)):
        trains = tuple(dict.fromkeys(name for weighted in tied for name in weighted.term.trains))
        objectives.append(Objective(trains, tuple(tied), views))
    return [Phase(tuple(objectives))]


def connected(items: Iterable[T], keys: Callable[[T], Iterable[Hashable]]) -> list[list[T]]:
    """Groups of items that share a key, directly or through others, in order of appearance.

    Example:
        >>> connected(["ab", "c", "bd"], set)
        [['ab', 'bd'], ['c']]
    """
    groups: list[tuple[set[Hashable], list[T]]] = []
    for item in items:
        mine = set(keys(item))
        touched = [group for group in groups if group[0] & mine]
        for group in touched[1:]:
            touched[0][0].update(group[0])
            touched[0][1].extend(group[1])
            groups.remove(group)
        if touched:
            touched[0][0].update(mine)
            touched[0][1].append(item)
        else:
            groups.append((mine, [item]))
    return [group for _, group in groups]
