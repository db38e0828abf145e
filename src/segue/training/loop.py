"""The training loop: every method in Segue, on this page.

Draw images; for each phase take the gradients of its objectives, agree on them with the other
processes, update the phase's networks; then whatever follows training. A method is a list of
terms; nothing here knows which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segue.batch import Batch
from segue.runtime import memory
from segue.runtime import processes as distributed
from segue.runtime import signals as stopping
from segue.training.guard import NonFiniteError, refuse_non_finite
from segue.training.monitor import said_of_target
from segue.training.phases import Objective, Weighted
from segue.training.resume import resume, save
from segue.training.state import Training
from segue.training.step import Step
from segue.training.tracker import Tracker


def train(training: Training, tracker: Tracker, folder: Path, *, checkpoint_every: int) -> None:
    """Runs the loop to its end, from the newest checkpoint in `folder` where there is one.

    Raises:
        SegueError: a loss or gradient is not finite (nothing is updated with it), memory runs
            out, or processes disagree.
        Stopped: a signal asked for it; the state after the iteration is saved.
    """
    start = resume(training, tracker, folder)
    training.networks.train()
    distributed.spread(training.networks.values(), training.world)
    tracker.begin(start)
    with ExitStack() as left:
        left.callback(tracker.close)
        draws = left.enter_context(closing(training.draw(start, training.iterations)))
        for iteration, micro_batches in zip(range(start, training.iterations), draws, strict=True):
            training.guard.keep(training.networks)
            try:
                with memory.told(f"iteration {iteration}"):
                    steps = iterate(training, iteration, micro_batches)
                numbers = mean_of([step.recorded for step in steps]) | training.guard.passed()
            except NonFiniteError as fault:
                numbers = training.guard.leave_out(fault, training.networks)
                tracker.warn(iteration + 1, f"left out: {fault}")
            tracker.note(iteration, numbers)
            done, stop = iteration + 1, distributed.largest(stopping.received(), training.world)
            if stop or done % checkpoint_every == 0 or done == training.iterations:
                save(training, tracker, folder, done)
            elif done % distributed.AGREE_EVERY == 0:
                distributed.refuse_disagreement(training.networks, training.world)
            if stop:
                distributed.meet(training.world)
                raise stopping.Stopped(stop, f"{folder.parent} is saved after iteration {done}")


def iterate(
    training: Training, iteration: int, micro_batches: list[dict[str, Batch]]
) -> list[Step]:
    """One iteration: every phase in turn, then what follows; its steps hold what was recorded."""
    networks, world = training.networks, training.world
    steps = begin(training, iteration, micro_batches)
    for phase in (one for one in training.phases for _ in range(one.repeat)):
        for step in steps:
            for objective in phase.objectives:
                backward(training, objective, step, share=1 / len(steps))
        distributed.average_gradients((networks[name] for name in phase.trains), world)
        refuse_non_finite(networks, phase.trains, steps, world)
        for name in phase.trains:
            networks.table[name].update(iteration)
        for step in steps:
            step.changed(phase.trains)
    distributed.average_buffers(networks.values(), world)
    for follower in training.followers.values():
        follower.after(steps)
    return steps


def begin(training: Training, iteration: int, micro_batches: list[dict[str, Batch]]) -> list[Step]:
    """A step for each micro batch, on the device, with its place in the joint batch."""
    world = training.world
    # Dropout and the like draw from torch's own generator.
    torch.manual_seed(
        Step({}, {}, iteration=iteration, seed=training.seed, slot=world.rank)
        .random("torch")
        .initial_seed()
    )
    steps = []
    for micro, batches in enumerate(micro_batches):
        moved = {role: batch.to(world.device) for role, batch in batches.items()}
        size = max(len(batch) for batch in moved.values())
        slot = (micro * world.size + world.rank) * size
        steps.append(
            Step(moved, training.networks, iteration=iteration, views=training.views,
                 seed=training.seed, slot=slot, keep=training.features)
        )  # fmt: skip
    return steps


def backward(training: Training, objective: Objective, step: Step, *, share: float) -> None:
    """Adds an objective's gradients, one group of terms at a time.

    Each group's graph is freed before the next group runs: terms of the source alone are
    backpropagated before the target is run, which never holds both graphs.
    """
    training.networks.hold(objective.trains)
    step.begin(objective.trains)
    for group in objective.groups:
        with autocast(training):
            losses = {weighted.name: weighted.term(step) for weighted in group}
            total = sum(
                (weighted.weight * losses[weighted.name] for weighted in group), torch.zeros(())
            )
        if training.examines(step.iteration):
            examine(training, objective, group, losses, step)
            if training.classes and (prediction := step.known("target")) is not None:
                for name, value in said_of_target(prediction, training.classes).items():
                    step.record(name, value)
        torch.autograd.backward(total * share)
        step.free()
        for name, loss in losses.items():
            step.record(f"loss/{name}", loss)


def examine(
    training: Training,
    objective: Objective,
    group: Sequence[Weighted],
    losses: Mapping[str, Tensor],
    step: Step,
) -> None:
    """Records how hard each term pulls: at the logits, or else at the weights that it trains.

    A term on features has no path from the logits: `gradient/NAME` is the norm of what it asks of
    the trained weights, to be held against the `gradient_norm` of all terms together.
    """
    weights = [p for name in objective.trains for p in training.networks.table[name].trainable()]
    for weighted in group:
        loss = weighted.weight * losses[weighted.name]
        pull = step.pull_on_logits(loss)
        if pull is not None:
            step.record(f"pull/{weighted.name}", pull)
        elif "segmenter" in weighted.term.trains and loss.requires_grad:
            found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
            norm = torch.nn.utils.get_total_norm([one for one in found if one is not None])
            step.record(f"gradient/{weighted.name}", norm)


def autocast(training: Training) -> AbstractContextManager[Any]:
    """Mixed precision, where it is asked for."""
    enabled = training.precision == "bfloat16"
    return torch.autocast(training.world.device.type, torch.bfloat16, enabled=enabled)


def mean_of(recorded: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of what the micro batches recorded."""
    names = dict.fromkeys(name for one in recorded for name in one)
    return {
        name: torch.stack([one[name].float() for one in recorded if name in one]).mean()
        for name in names
    }
