"""One real step of a stage, in a process of its own that may run out of memory.

Started as `python -m segue.checking.one_step`; see `segue.checking.fit` for who asks and why.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from segue.batch import Batch
from segue.checking.report import Report
from segue.checking.stages import build_network, labelled_roles, shown_sizes
from segue.errors import SegueError
from segue.models import Segmenter
from segue.models.batch_norm import set_batch_norm
from segue.parts import parse
from segue.recipe.recipe import Recipe, TrainStage
from segue.recipe.safe_yaml import parsed
from segue.runtime import memory
from segue.runtime import processes as distributed
from segue.runtime.processes import World
from segue.stages import train
from segue.training.loop import iterate
from segue.training.networks import Network, Networks
from segue.training.state import Training

MICRO_BATCHES = 2  # as many as it takes for gradients to be added to others
BLOCK = 16  # pixels; labels are of one class in squares of this side


def main() -> None:
    """Reads what to try from standard input and writes what it took, one JSON line at a time."""
    asked = json.loads(sys.stdin.read())
    recipe = parse(Recipe, parsed(asked["recipe"], where="recipe"), where="")
    try:
        world = distributed.join(recipe.device)
        there = memory.available(world.device)
        say({"device": described(world.device), "available": there})
        if world.device.type == "cpu":
            memory.limit(there)
        say(measure(recipe, asked["stage"], world))
    except SegueError as error:
        say({"error": str(error)})
    except (RuntimeError, MemoryError) as error:
        if not memory.ran_out(error):
            raise
        say({"ran_out": True})


def say(found: dict[str, Any]) -> None:
    """Writes a line at once, which stays said if the process ends."""
    print(json.dumps(found), flush=True)


def described(device: torch.device) -> str:
    """The device in words."""
    if device.type != "cuda":
        threads = torch.get_num_threads()
        return f"{device}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{device}, {torch.cuda.get_device_name(device)}"


def measure(recipe: Recipe, name: str, world: World) -> dict[str, Any]:
    """Two steps of a stage (on a GPU four), as training takes them, on generated images.

    The first is one whose terms are examined, which holds most; the others are timed.

    Returns:
        `seconds` of an iteration, `peak` bytes of the process or on the GPU, `notes` on weights.
    """
    stage = recipe.stages[name]
    assert isinstance(stage, TrainStage)
    training, notes = prepared(recipe, name, stage, world)
    count = min(stage.accumulate, MICRO_BATCHES)
    seconds = []
    for iteration in range(1, 5 if world.device.type == "cuda" else 3):
        drawn = [generated(recipe, name, stage, micro) for micro in range(count)]
        begun = clock(world.device)
        iterate(training, iteration, drawn)
        seconds.append(clock(world.device) - begun)
    return {
        "seconds": statistics.median(seconds[1:]) * stage.accumulate / count,
        "peak": memory.peak(world.device),
        "notes": notes,
    }


def prepared(
    recipe: Recipe, name: str, stage: TrainStage, world: World
) -> tuple[Training, list[str]]:
    """All that iterations of a stage need but its data, and notes on weights."""
    networks, notes = built(recipe, name, stage)
    networks.train()
    # The first step that is taken is to be one whose terms are examined.
    soon = stage.model_copy(update={"log_every": min(stage.log_every, 2)})
    training = train.training_of(
        recipe,
        name,
        soon,
        networks,
        _no_batches,
        world=world,
        iterations=stage.iterations,
    )
    return training, notes


def _no_batches(*_: int) -> Generator[list[dict[str, Batch]], None, None]:
    yield from ()


def clock(device: torch.device) -> float:
    """Seconds, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def built(recipe: Recipe, name: str, stage: TrainStage) -> tuple[Networks, list[str]]:
    """The stage's networks; random ones where weights are not here, which is noted."""
    table: dict[str, Network] = {}
    notes = []
    for key, settings in stage.networks.items():
        report = Report(recipe.classes())
        where = f"stages.{name}.networks.{key}"
        network, _ = build_network(recipe, stage, settings, where, report)
        if network is None:
            raise SegueError(report.problems[0])
        if report.problems or report.warnings:
            _freeze_as_weights_would(network)
            notes.append(f"{where}: its weights are not here; random ones were measured")
        table[key] = network
        fill(network)
    return Networks(table), notes


def _freeze_as_weights_would(network: Network) -> None:
    """Or the gradients of scales and shifts would be measured, which take half of the memory."""
    if not isinstance(network.module, Segmenter):
        return
    network.module.freeze_affine = True
    set_batch_norm(network.module, network.module.batch_norm)
    for group in network.optimiser.param_groups if network.optimiser else []:
        group["params"] = [one for one in group["params"] if one.requires_grad]


def fill(network: Network) -> None:
    """Puts values into what is a mere table, such as centres, which an earlier stage would fill."""
    if any(True for _ in network.module.parameters()):
        return
    for values in network.module.buffers():
        if values.is_floating_point():
            values.copy_(torch.rand(values.shape).softmax(-1))


def generated(recipe: Recipe, name: str, stage: TrainStage, micro: int) -> dict[str, Batch]:
    """A micro batch of the largest size that augmentation leaves, labelled as training has it."""
    random = torch.Generator().manual_seed(micro)
    labelled = labelled_roles(recipe, stage)
    classes = recipe.classes().num_classes
    batches = {}
    for role, settings in (("source", stage.source), ("target", stage.target)):
        if settings is not None:
            size = shown_sizes(settings, f"stages.{name}.{role}")[-1]
            image = torch.rand(stage.batch_size, 3, *size, generator=random)
            label = labels(stage.batch_size, size, classes, random) if role in labelled else None
            batches[role] = Batch(image, label)
    return batches


def labels(count: int, size: tuple[int, int], classes: int, random: torch.Generator) -> Tensor:
    """Labels [count, *size] of random classes in squares."""
    height, width = (math.ceil(side / BLOCK) for side in size)
    coarse = torch.randint(classes, (count, height, width), generator=random)
    whole = coarse.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    return whole[:, : size[0], : size[1]].contiguous()


if __name__ == "__main__":
    main()
