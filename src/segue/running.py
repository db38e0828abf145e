"""Running a recipe: its stages in order, in one folder, each finished only once."""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from segue import distributed
from segue.checkpoint import write_whole
from segue.errors import SegueError
from segue.recipe import Recipe
from segue.stages import STAGES

DONE = "done.json"
SETTINGS = "settings.json"
SECONDS = "seconds.json"
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
        SegueError: the folder holds a run of other settings, or a stage fails.
    """
    folder = Path(work_dir) if work_dir is not None else Path("runs") / recipe.name
    world = distributed.join(recipe.device)
    for name in recipe.stages:
        refuse_other(folder / name, recipe.fingerprint(name))
    if world.leads:
        describe(recipe, folder)
    waiting = [
        name
        for name in recipe.stages
        if not finished(folder / name / DONE, recipe.fingerprint(name))
    ]
    # A stage reads files that the leading process wrote in the one before.
    distributed.meet(world)
    for name in waiting:
        stage, told = recipe.stages[name], {"fingerprint": recipe.fingerprint(name)}
        if world.leads:
            write_json(folder / name / SETTINGS, told)
        begun = time.monotonic()
        STAGES[stage.kind](recipe, name, stage, folder, world=world, console=console)
        if world.leads:
            # Apart from all else, since it is no two times the same.
            write_json(folder / name / SECONDS, {"seconds": time.monotonic() - begun})
            write_json(folder / name / DONE, told)
        distributed.meet(world)
    distributed.leave()
    return folder


def finished(path: Path, fingerprint: str) -> bool:
    """Whether a stage was finished with these very settings."""
    return path.is_file() and json.loads(path.read_text())["fingerprint"] == fingerprint


def refuse_other(folder: Path, fingerprint: str) -> None:
    """Looks whether a stage's folder belongs to these settings, or to none yet.

    Raises:
        SegueError: it belongs to others.
    """
    path = folder / SETTINGS
    if path.is_file() and json.loads(path.read_text())["fingerprint"] != fingerprint:
        raise SegueError(
            "was begun with other settings",
            where=folder,
            fix="choose another work_dir, or delete this folder to start it anew",
        )


def write_json(path: Path, told: dict[str, Any]) -> None:
    """Writes a small file of this format, whole or not at all."""
    text = json.dumps({"format": 1, **told}, indent=1)
    write_whole(path, lambda file: file.write(text.encode()))


def describe(recipe: Recipe, folder: Path) -> None:
    """Writes the recipe as resolved and the versions that run it."""
    write_whole(folder / "recipe.yaml", lambda file: file.write(recipe.as_yaml().encode()))
    told = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": sys.argv,
        "seed": recipe.seed,
        "versions": {name: metadata.version(name) for name in _VERSIONS},
    }
    write_json(folder / "environment.json", told)
