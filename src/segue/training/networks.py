"""The one table of every network of a run, each with its optimiser and schedule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._functorch import config as functorch_config
from torch.optim import Optimizer

from segue.training.optimisers import Schedule, load_optimiser


@dataclass
class Network:
    """A module with what trains it.

    Args:
        module: the network.
        optimiser: its optimiser; None where nothing trains it by gradient, as a teacher.
        schedule: iteration -> factor on every learning rate of the optimiser.
        clip: largest norm of its gradient; None: unbounded.
    """

    module: nn.Module
    optimiser: Optimizer | None = None
    schedule: Schedule = lambda _: 1.0
    clip: float | None = None

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that its optimiser holds, each once."""
        groups = self.optimiser.param_groups if self.optimiser else []
        return [parameter for group in groups for parameter in group["params"]]

    def gradient_norm(self) -> torch.Tensor:
        """Euclidean norm of the gradient over all trainable parameters."""
        gradients = [p.grad for p in self.trainable() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def update(self, iteration: int) -> None:
        """Clips and steps at the rates of this iteration, then clears the gradients."""
        assert self.optimiser is not None
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.trainable(), self.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * self.schedule(iteration)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


class Networks(Mapping[str, nn.Module]):
    """Every network of a run by name; saved, restored and moved as one.

    Example:
        >>> networks = Networks({"critic": Network(nn.Linear(2, 1))})
        >>> networks["critic"](torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """

    def __init__(self, table: Mapping[str, Network]) -> None:
        self.table = dict(table)

    def __getitem__(self, name: str) -> nn.Module:
        return self.table[name].module

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def hold(self, trained: Iterable[str]) -> None:
        """Lets gradients reach only the parameters of these networks."""
        names = set(trained)
        for name, network in self.table.items():
            for parameter in network.trainable():
                parameter.requires_grad_(name in names)

    def train(self) -> None:
        """Puts every module in training mode (a segmenter keeps its batch norm setting)."""
        for network in self.table.values():
            network.module.train()

    def to(self, device: torch.device) -> None:
        """Moves every module, and on a GPU makes of it what is fast there."""
        for network in self.table.values():
            network.module.to(device)
            if device.type == "cuda":
                quicken(network)

    def compile(self, backend: str = "inductor") -> None:
        """Has torch compile what is trained, in place: names of weights stay, roundings may not."""
        # How hard a term pulls is measured before the backward pass, which must find all it needs.
        functorch_config.donated_buffer = False
        for network in self.table.values():
            if network.optimiser is not None:
                # A stage has few sizes, each worth code of its own.
                network.module.compile(backend=backend, dynamic=False)

    def state_dict(self) -> dict[str, Any]:
        """Weights, buffers and optimiser states of all."""
        return {
            name: {
                "module": network.module.state_dict(),
                "optimiser": network.optimiser.state_dict() if network.optimiser else None,
            }
            for name, network in self.table.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        for name, network in self.table.items():
            network.module.load_state_dict(state[name]["module"])
            if network.optimiser:
                load_optimiser(network.optimiser, state[name]["optimiser"])


def quicken(network: Network) -> None:
    """Lays kernels out with channels last and updates all weights at once, as GPUs are fast.

    The same up to rounding; on a CPU neither is done, where results are the same bits everywhere.
    """
    network.module.to(memory_format=torch.channels_last)
    for group in network.optimiser.param_groups if network.optimiser else []:
        group["fused"] = True
