"""What happens when a number is no number: who did it is told, and no weight ever holds one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from segue.errors import SegueError
from segue.runtime import processes as distributed
from segue.runtime.processes import World
from segue.training.networks import Networks
from segue.training.step import Step

MOST = 10  # iterations left out in a row


class NonFiniteError(SegueError):
    """A gradient is not finite; no weight was changed by it."""


@dataclass
class Guard:
    """Stops at a number that is not finite, or leaves its iteration out.

    An iteration that is left out changes no running statistics and no follower either, from the
    phase at fault on. More than `MOST` in a row stop the run all the same.

    Args:
        on_non_finite: what to do.
        in_a_row: iterations that were left out since the last one that was not.
    """

    on_non_finite: Literal["stop", "skip"] = "stop"
    in_a_row: int = 0
    _kept: list[tuple[nn.Module, str, Tensor]] = field(default_factory=list)

    def keep(self, networks: Networks) -> None:
        """Remembers the running statistics, which a forward pass changes."""
        if self.on_non_finite == "skip":
            self._kept = [
                (owner, name, buffer.clone())
                for network in networks.values()
                for owner in network.modules()
                for name, buffer in owner.named_buffers(recurse=False)
            ]

    def leave_out(self, fault: NonFiniteError, networks: Networks) -> dict[str, Tensor]:
        """Undoes what the iteration did and returns what it leaves to be noted.

        Raises:
            NonFiniteError: the fault, where it is to stop the run, or was the last straw.
        """
        if self.on_non_finite == "stop" or self.in_a_row == MOST:
            raise fault
        self.in_a_row += 1
        # By name: some batch norms put a new tensor in the place of the old.
        for owner, name, before in self._kept:
            getattr(owner, name).copy_(before)
        for network in networks.table.values():
            for parameter in network.trainable():
                parameter.grad = None
        return {"skipped": torch.ones(())}

    def passed(self) -> dict[str, Tensor]:
        """What is noted of an iteration that was not left out."""
        self.in_a_row = 0
        return {"skipped": torch.zeros(())} if self.on_non_finite == "skip" else {}


def refuse_non_finite(
    networks: Networks, trained: Iterable[str], steps: Sequence[Step], world: World
) -> None:
    """Speaks up before a weight is poisoned, and names the terms and the files.

    Raises:
        NonFiniteError: the gradient of a network is not finite; the same in every process.
    """
    for name in trained:
        norm = networks.table[name].gradient_norm()
        for step in steps:
            step.record(f"gradient_norm/{name}", norm)
        if torch.isfinite(norm):
            continue
        mine = [(non_finite_losses(step), step.names) for step in steps]
        told = [one for rank in distributed.gather(mine, world) for one in rank]
        causes = list(dict.fromkeys(cause for found, _ in told for cause in found))
        guilty = [names for found, names in told if found or not causes]
        files = ", ".join(dict.fromkeys(file for names in guilty for file in names))
        raise NonFiniteError(
            f"{', '.join(causes) or 'every loss is finite'}, the gradient of {name} is "
            f"{float(norm)}: {files}",
            where=f"iteration {steps[0].iteration}",
            fix="look at these files, or lower the learning rate; no weight was changed by it",
        )


def non_finite_losses(step: Step) -> list[str]:
    """The losses of a step that are no finite numbers, in words."""
    return [
        f"loss {name.removeprefix('loss/')} is {float(value)}"
        for name, value in step.recorded.items()
        if name.startswith("loss/") and not torch.isfinite(value)
    ]


def refuse_poisoned(networks: Networks, *, where: str) -> None:
    """Looks at all weights and running statistics before they are saved.

    Raises:
        SegueError: one is not finite.
    """
    for name, module in networks.items():
        tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
        if tensors and not torch.stack([t.isfinite().all() for t in tensors]).all():
            fix = "lower the learning rate or set `clip`; what was saved before is whole"
            raise SegueError(f"weights of {name} are not finite", where=where, fix=fix)
