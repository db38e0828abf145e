"""Running a recipe: its stages in order, in one folder, each finished only once."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segue.errors import SegueError
from segue.recipe import plugins
from segue.recipe.fill_cache import fill_cache
from segue.recipe.recipe import EvaluateStage, Recipe
from segue.runtime import memory
from segue.runtime import processes as distributed
from segue.runtime import signals as stopping
from segue.runtime.processes import World, join, meet
from segue.stages import STAGES, evaluate
from segue.storage.lock import locked
from segue.storage.whole import write_json, write_whole
from segue.work_dir import ENVIRONMENT, SECONDS, recipe_of

DONE = "done.json"
SETTINGS = "settings.json"
_VERSIONS = (
    "segue",
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "numpy",
    "pillow",
)


def run(
    recipe: Recipe, work_dir: str | Path | None = None, *, console: Console | None = None
) -> Path:
    """Runs every stage that is not finished and returns the work_dir.

    The same call again continues where the last one stopped: a finished stage is skipped, an
    unfinished one goes on from its newest checkpoint.

    Args:
        recipe: what to run.
        work_dir: where to; `runs/<recipe name>` unless given.
        console: where to show progress; None keeps silent.

    Raises:
        SegueError: the folder holds a run of other settings, another process runs in it, or a
            stage fails.
        Stopped: a signal asked for it (SIGTERM, SIGINT, SIGUSR1).
    """
    folder = Path(work_dir) if work_dir is not None else Path("runs") / recipe.name
    with stopping.listening(), determinism(recipe.deterministic):
        world = distributed.join(recipe.device)
        with locked(folder, world):
            run_stages(recipe, folder, world, console)
    return folder


def run_stages(recipe: Recipe, folder: Path, world: World, console: Console | None) -> None:
    """Runs every stage that is not finished, in a folder that is this run's alone."""
    for name in recipe.stages:
        refuse_other(folder / name, recipe.fingerprint(name))
    if world.leads:
        describe(recipe, folder, world)
    waiting = [
        name
        for name in recipe.stages
        if not finished(folder / name / DONE, recipe.fingerprint(name))
    ]
    # A stage reads files that the leading process wrote in the one before.
    distributed.meet(world)
    fill_cache(recipe, waiting, world=world, console=console)
    for name in waiting:
        stage, told = recipe.stages[name], {"fingerprint": recipe.fingerprint(name)}
        if world.leads:
            write_json(folder / name / SETTINGS, told)
        begun = time.monotonic()
        with memory.told(f"stages.{name}"):
            STAGES[stage.kind](recipe, name, stage, folder, world=world, console=console)
        if world.leads:
            # Apart from all else, since it is no two times the same.
            cost = {"seconds": time.monotonic() - begun, "peak_bytes": memory.peak(world.device)}
            write_json(folder / name / SECONDS, cost)
            write_json(folder / name / DONE, told)
        distributed.meet(world)


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Has torch choose kernels that give the same bits each time; it warns of those that cannot.

    On a CPU all do anyway.
    """
    if not wanted:
        yield
        return
    # Read when CUDA starts: without it cuBLAS may add in another order each time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def finished(path: Path, fingerprint: str) -> bool:
    """Whether a stage was finished with these very settings."""
    return path.is_file() and _fingerprint_in(path) == fingerprint


def refuse_other(folder: Path, fingerprint: str) -> None:
    """Looks whether a stage's folder belongs to these settings, or to none yet.

    Raises:
        SegueError: it belongs to others.
    """
    path = folder / SETTINGS
    if path.is_file() and _fingerprint_in(path) != fingerprint:
        raise SegueError(
            "was begun with other settings",
            where=folder,
            fix="choose another work_dir, or delete this folder to start it anew",
        )


def _fingerprint_in(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        fix = f"delete {path.parent} to start the stage anew"
        raise SegueError("is damaged", where=path, fix=fix) from error


def describe(recipe: Recipe, folder: Path, world: World) -> None:
    """Writes the recipe as resolved, and what runs it: versions, device, processes."""
    write_whole(folder / "recipe.yaml", lambda file: file.write(recipe.as_yaml().encode()))
    told = {
        "command": sys.argv,
        "plugins": plugins.loaded(),
        "seed": recipe.seed,
        **described(world),
    }
    write_json(folder / ENVIRONMENT, told)


def described(world: World) -> dict[str, Any]:
    """What a run may depend on beside its recipe."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": world.device.type,
        "processes": world.size,
        "versions": {name: metadata.version(name) for name in _VERSIONS},
    }


def evaluate_again(work_dir: Path, console: Console) -> None:
    """Scores a run's models once more, with the settings that it was run with.

    Raises:
        SegueError: nothing is trained yet, or the recipe has no evaluate stage.
    """
    recipe = recipe_of(work_dir)
    stages = {n: s for n, s in recipe.stages.items() if isinstance(s, EvaluateStage)}
    if not stages:
        raise SegueError("has no evaluate stage", where=work_dir, fix="add one to its recipe")
    world = join(recipe.device)
    for name, stage in stages.items():
        evaluate.run(recipe, name, stage, work_dir, world=world, console=console)
    # The others read what the leading process wrote.
    meet(world)


def versions() -> str:
    """Segue's and torch's versions, for a page."""
    return f"segue {metadata.version('segue')}, torch {metadata.version('torch')}"
