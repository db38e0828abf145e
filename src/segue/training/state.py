"""All that a run of the training loop needs, and all of its state."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from segue.batch import Batch
from segue.runtime.processes import World
from segue.training.guard import Guard
from segue.training.networks import Networks
from segue.training.phases import Phase
from segue.training.step import Step, View

Draw = Callable[[int, int], Generator[list[dict[str, Batch]], None, None]]


@runtime_checkable
class Follower(Protocol):
    """State that follows training: an averaged teacher, an image pool, running statistics."""

    def after(self, steps: Sequence[Step]) -> None:
        """Called once after each iteration's updates."""

    def state_dict(self) -> dict[str, Any]:
        """What to save."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores it."""


@dataclass
class Training:
    """All that a run of the loop needs, and all of its state.

    Args:
        networks: every network with its optimiser.
        phases: what is minimised by whom, in order.
        iterations: how many.
        draw: (first, stop) -> for each iteration its micro batches, by role. A function of the
            iteration, so that resuming never replays anything.
        views: how views are made from what is drawn.
        followers: state that follows training, by name.
        seed: of every random choice.
        precision: `bfloat16` runs forward passes under autocast.
        world: this process among its peers.
        examine_every: how often each term's gradient is measured at the logits, beside the step.
        guard: what is done about numbers that are not finite.
        classes: their names, by which it is then noted what is predicted on the target.
    """

    networks: Networks
    phases: Sequence[Phase]
    iterations: int
    draw: Draw
    views: Mapping[str, View] = field(default_factory=dict)
    followers: Mapping[str, Follower] = field(default_factory=dict)
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    world: World = field(default_factory=World)
    examine_every: int | None = None
    guard: Guard = field(default_factory=Guard)
    classes: Sequence[str] = ()

    def examines(self, iteration: int) -> bool:
        """Whether this iteration measures how hard each term pulls."""
        return self.examine_every is not None and (iteration + 1) % self.examine_every == 0

    @property
    def features(self) -> frozenset[str]:
        """Features of predictions that some term reads after the objective that made them."""
        return frozenset(name for phase in self.phases for name in phase.features)

    def state_dict(self) -> dict[str, Any]:
        """The state of networks, optimisers and followers."""
        return {
            "networks": self.networks.state_dict(),
            "followers": {name: one.state_dict() for name, one in self.followers.items()},
            "skipped_in_a_row": self.guard.in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores it."""
        self.networks.load_state_dict(state["networks"])
        for name, one in self.followers.items():
            one.load_state_dict(state["followers"][name])
        self.guard.in_a_row = state.get("skipped_in_a_row", 0)
