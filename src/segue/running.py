"""Running a recipe: its stages in order, in one folder, each finished only once."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from segue import distributed
from segue.checkpoint import write_whole
from segue.distributed import World
from segue.errors import SegueError
from segue.recipe import Recipe
from segue.stages import STAGES

DONE = "done.json"
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
    if world.leads:
        describe(recipe, folder)
    for name, stage in recipe.stages.items():
        done, print_of = folder / name / DONE, recipe.fingerprint(name)
        if finished(done, print_of):
            continue
        claim(folder / name, print_of, world)
        STAGES[stage.kind](recipe, name, stage, folder, world=world, console=console)
        if world.leads:
            write_json(done, {"fingerprint": print_of})
    distributed.leave()
    return folder


def finished(path: Path, fingerprint: str) -> bool:
    """Whether a stage was finished with these very settings."""
    return path.is_file() and json.loads(path.read_text())["fingerprint"] == fingerprint


def claim(folder: Path, fingerprint: str, world: World) -> None:
    """Notes which settings a stage's folder belongs to.

    Raises:
        SegueError: it belongs to others.
    """
    path = folder / "settings.json"
    if path.is_file() and json.loads(path.read_text())["fingerprint"] != fingerprint:
        raise SegueError(
            "was begun with other settings",
            where=folder,
            fix="choose another work_dir, or delete this folder to start it anew",
        )
    if world.leads:
        write_json(path, {"fingerprint": fingerprint})


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
