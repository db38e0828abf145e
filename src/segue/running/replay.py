"""`segue replay`: the first iterations of a run once more, and whether they agree to the bit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segue.errors import SegueError
from segue.parts import choose
from segue.recipe.recipe import Recipe, TrainStage
from segue.running.run import described, determinism
from segue.runtime import processes as distributed
from segue.runtime import signals as stopping
from segue.runtime.processes import World
from segue.stages import train
from segue.storage import checkpoint
from segue.storage.whole import read_rows
from segue.training.tracker import METRICS
from segue.work_dir import environment, recipe_of

LINES = 2  # of metrics that are compared unless more is asked for


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    Args:
        stage: which was replayed.
        iterations: how many of it.
        lines: of metrics that were compared.
        weights: whether a checkpoint was compared, too.
        differences: in words, the first one first; none where all agree to the bit.
        elsewhere: what differs between then and now in versions, device and processes.
    """

    stage: str
    iterations: int
    lines: int
    weights: bool
    differences: tuple[str, ...]
    elsewhere: tuple[str, ...]

    def __str__(self) -> str:
        """One line."""
        what = "metrics and weights" if self.weights else "metrics"
        begun = f"{self.stage}, the first {self.iterations} iterations: {what}"
        if not self.differences:
            return f"{begun} agree to the bit ({self.lines} lines)"
        told = f"{begun} differ; {self.differences[0]}"
        return f"{told}; then and now: {', '.join(self.elsewhere)}" if self.elsewhere else told


def replay(
    work_dir: Path,
    *,
    stage: str | None = None,
    iterations: int | None = None,
    console: Console | None = None,
) -> Replay:
    """Runs a train stage's first iterations again in a folder that is then removed, and compares.

    What earlier stages left is taken as it is. The work_dir is only read.

    Args:
        work_dir: of a run.
        stage: one of its train stages, the first unless given.
        iterations: how many, two lines of metrics unless given. Where the run has kept the
            checkpoint of just so many, weights are compared as well.
        console: where to show progress; None keeps silent.

    Raises:
        SegueError: there is no run, no such stage, nothing to compare with, or it was run by
            another number of processes.
    """
    recipe = recipe_of(work_dir)
    stages = {n: one for n, one in recipe.stages.items() if isinstance(one, TrainStage)}
    name = stage if stage is not None else next(iter(stages))
    settings = choose(stages, name, where="--stage", what="train stage")
    count = min(iterations or LINES * settings.log_every, settings.iterations)
    before = [row for row in _rows(work_dir / name) if row["iteration"] <= count]
    if not before:
        fix = f"replay {settings.log_every} iterations or more of a stage that got so far"
        raise SegueError("has no line of metrics to compare", where=work_dir / name, fix=fix)
    with stopping.listening(), determinism(recipe.deterministic):
        world = distributed.join(recipe.device)
        then, now = _then(work_dir), _flat(described(world))
        _refuse_other_processes(then, world)
        folder = Path(distributed.gather(tempfile.mkdtemp(prefix="segue-replay-"), world)[0])
        try:
            _run(recipe, name, settings, work_dir, folder, world, console, count)
            after = read_rows(folder / name / METRICS) if world.leads else before
            weights = _weights(work_dir / name, folder / name, count) if world.leads else None
        finally:
            distributed.meet(world)
            shutil.rmtree(folder, ignore_errors=True)
    differences = [*_differences(before, after), *(weights or [])]
    elsewhere = [f"{key} {one} and {now[key]}" for key, one in then.items() if one != now[key]]
    return Replay(
        name, count, len(before), weights is not None, tuple(differences), tuple(elsewhere)
    )


def _run(
    recipe: Recipe,
    name: str,
    settings: TrainStage,
    work_dir: Path,
    folder: Path,
    world: World,
    console: Console | None,
    count: int,
) -> None:
    if world.leads:
        for earlier in list(recipe.stages)[: list(recipe.stages).index(name)]:
            (folder / earlier).symlink_to((work_dir / earlier).resolve())
    distributed.meet(world)
    train.run(recipe, name, settings, folder, world=world, console=console, until=count)


def _rows(folder: Path) -> list[dict[str, float]]:
    return read_rows(folder / METRICS) if (folder / METRICS).is_file() else []


def _then(work_dir: Path) -> dict[str, Any]:
    return _flat(environment(work_dir))


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """The first release did not write all of these."""
    keys = ("python", "platform", "device", "processes")
    return {**told.get("versions", {}), **{key: told[key] for key in keys if key in told}}


def _refuse_other_processes(then: Mapping[str, Any], world: World) -> None:
    if then.get("processes", world.size) != world.size:
        raise SegueError(
            f"was run by {then['processes']} processes, and this is {world.size}",
            where="replay",
            fix=f"torchrun --nproc-per-node={then['processes']} -m segue replay ...",
        )


def _differences(before: list[dict[str, float]], after: list[dict[str, float]]) -> list[str]:
    found = []
    for one, other in zip(before, after, strict=False):
        # Another version may note more.
        for key in (key for key in one if key in other and one[key] != other[key]):
            at = f"iteration {one['iteration']:.0f}"
            found.append(f"{at}: {key} was {one[key]!r} and is {other[key]!r}")
    return found


def _weights(before: Path, after: Path, count: int) -> list[str] | None:
    """Where weights differ; None where the run has not kept that checkpoint."""
    kept = checkpoint.path_of(before / "checkpoints", count)
    if not kept.is_file():
        return None
    one = checkpoint.load(kept)["networks"]
    other = checkpoint.load(checkpoint.path_of(after / "checkpoints", count))["networks"]
    return [
        f"weights of {network}.{key}"
        for network, state in one.items()
        for key, value in state["module"].items()
        if not torch.equal(value, other[network]["module"][key])
    ]
