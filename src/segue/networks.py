"""The one table of every network of a run, each with its optimiser and schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import nn
from torch._functorch import config as functorch_config
from torch.optim import SGD, Adam, AdamW, Optimizer

from segue.errors import SegueError
from segue.models import MODELS
from segue.models.centres import centres
from segue.models.conditional_discriminator import conditional_discriminator
from segue.models.discriminator import discriminator
from segue.models.generator import generator
from segue.models.grouping import dff_grouping, grouping, k_means_grouping
from segue.models.patch_discriminator import patch_discriminator
from segue.models.segmenter import Segmenter
from segue.models.style_discriminator import style_discriminator

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **MODELS,
    "discriminator": discriminator,
    "conditional_discriminator": conditional_discriminator,
    "style_discriminator": style_discriminator,
    "grouping": grouping,
    "k_means_grouping": k_means_grouping,
    "dff_grouping": dff_grouping,
    "centres": centres,
    "generator": generator,
    "patch_discriminator": patch_discriminator,
}

Schedule = Callable[[int], float]


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


def load_optimiser(optimiser: Optimizer, state: Mapping[str, Any]) -> None:
    """Restores an optimiser, which goes on updating as suits this device, not the one it left."""
    groups = [
        {**saved, "fused": own["fused"]}
        for saved, own in zip(state["param_groups"], optimiser.param_groups, strict=True)
    ]
    optimiser.load_state_dict({**state, "param_groups": groups})
    for parameter, values in optimiser.state.items():
        for key, value in values.items():
            # One kernel for all wants each value laid out as its weight is.
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def parameter_groups(module: nn.Module, lr: float, head_multiplier: float) -> list[dict[str, Any]]:
    """Parameters listed once, a segmenter's head at its multiple of the rate.

    Differs: old code of this field lists backbone parameters up to three times, a true rate of
    about three times the printed one; here the printed rate is the true one.

    Example:
        >>> [group["base_lr"] for group in parameter_groups(nn.Linear(2, 1), 0.1, 10)]
        [0.1]
    """
    if not isinstance(module, Segmenter):
        trainable = [p for p in module.parameters() if p.requires_grad]
        return [{"params": trainable, "lr": lr, "base_lr": lr}]
    rates = {"backbone": lr, "head": lr * head_multiplier}
    groups = module.parameter_groups()
    if not any(groups.values()):
        raise SegueError("nothing to train", where="networks", fix="change `batch_norm`")
    return [
        {"params": parameters, "lr": rates[name], "base_lr": rates[name]}
        for name, parameters in groups.items()
        if parameters
    ]


def sgd(
    module: nn.Module,
    *,
    lr: float = 2.5e-4,
    head_multiplier: float = 10.0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Optimizer:
    """Stochastic gradient descent, with AdaptSegNet's values as defaults."""
    groups = parameter_groups(module, lr, head_multiplier)
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)


def adam(
    module: nn.Module,
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    head_multiplier: float = 1.0,
    weight_decay: float = 0.0,
) -> Optimizer:
    """Adam, with the values that the field gives its discriminators."""
    groups = parameter_groups(module, lr, head_multiplier)
    return Adam(groups, lr=lr, betas=betas, weight_decay=weight_decay)


def adamw(
    module: nn.Module,
    *,
    lr: float = 6e-5,
    betas: tuple[float, float] = (0.9, 0.999),
    head_multiplier: float = 10.0,
    weight_decay: float = 0.01,
) -> Optimizer:
    """AdamW, with the values usual for transformer backbones."""
    groups = parameter_groups(module, lr, head_multiplier)
    return AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay)


OPTIMISERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}


def poly(
    iterations: int, *, power: NonNegativeFloat = 0.9, over: PositiveInt | None = None
) -> Schedule:
    """(1 - iteration / over) ** power, `over` being the stage's length unless given.

    Example:
        >>> round(poly(100)(50), 4)
        0.5359
    """
    length = over or iterations
    return lambda iteration: float(max(1 - iteration / length, 0.0) ** power)


def constant(iterations: int) -> Schedule:  # noqa: ARG001 - schedules share one signature
    """The same rate throughout."""
    return lambda _: 1.0


def step(iterations: int, *, every: PositiveInt, factor: float = 0.1) -> Schedule:  # noqa: ARG001
    """Times `factor` after each `every` iterations.

    Example:
        >>> round(step(100, every=30)(60), 4)
        0.01
    """
    return lambda iteration: float(factor ** (iteration // every))


def linear(iterations: int, *, hold: float = 0.5) -> Schedule:
    """The full rate for a share `hold` of the stage, then in a straight line to 0, as CycleGAN.

    Example:
        >>> linear(100)(25), linear(100)(75)
        (1.0, 0.5)
    """
    held = hold * iterations
    rest = max(iterations - held, 1)
    return lambda iteration: float(min(1.0, max((iterations - iteration) / rest, 0.0)))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "poly": poly,
    "constant": constant,
    "step": step,
    "linear": linear,
}
