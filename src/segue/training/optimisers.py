"""Optimisers and the schedules of their rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from segue.errors import SegueError
from segue.models.segmenter import Segmenter

Schedule = Callable[[int], float]


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
