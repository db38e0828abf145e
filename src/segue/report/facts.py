"""What was run: recipe, data, weights with their hashes, versions, time and cost."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue import work_dir
from segue.recipe.recipe import TrainStage
from segue.report.blocks import Grid, Lines
from segue.work_dir import Run, cost_of, environment, minutes_of, trained

HASHED = 16  # hex digits of a hash that are shown


def table(runs: list[Run]) -> Grid:
    """A column for each run and a row for each fact; rows that no run fills are left out."""
    found = [facts(run) for run in runs]
    names = list(dict.fromkeys(name for one in found for name in one))
    rows = tuple(((name,), *(one.get(name, ()) for one in found)) for name in names)
    filled = tuple(row for row in rows if any(row[1:]))
    title = "Recipe, data, weights, machine and cost"
    return Grid(title, ("", *(run.name for run in runs)), filled, prose=True)


def facts(run: Run) -> dict[str, Lines]:
    """Name to lines, of one run."""
    around = environment(run.work_dir)
    recipe = run.recipe
    lines: dict[str, Lines] = {
        "folder": (str(run.work_dir),),
        "recipe": tuple(filter(None, (recipe.name, recipe.title))),
        "command": _command(around),
        "seed, precision": (f"{recipe.seed}, {recipe.precision}",),
        "data": tuple(f"{name}: {described(of)}" for name, of in recipe.data.items()),
        "stages": tuple(_stages(run)),
        "first weights": tuple(dict.fromkeys(_first_weights(run))),
        "trained weights": tuple(_trained_weights(run)),
        "plugins": tuple(f"{path}, {_short(of)}" for path, of in around.get("plugins", {}).items()),
    }
    return lines | _machine(around) | cost(run, int(around.get("processes", 1)))


def described(settings: Mapping[str, Any]) -> str:
    """A dataset's settings in a few words.

    Example:
        >>> described({"kind": "gta5", "root": "data/gta5", "split": "train"})
        'gta5, train, data/gta5'
    """
    return ", ".join(str(settings[key]) for key in ("kind", "split", "root") if settings.get(key))


def cost(run: Run, processes: int) -> dict[str, Lines]:
    """Time, iterations, images seen and memory, as far as the run noted them."""
    stages = run.recipe.stages
    lengths = trained(run.recipe)
    images = 0
    for name in lengths:
        stage = stages[name]
        assert isinstance(stage, TrainStage)
        drawn = stage.batch_size * stage.accumulate * processes
        images += stage.iterations * drawn * (1 + (stage.target is not None))
    told = [cost_of(run.work_dir, name) for name in stages]
    seconds = sum(one.get("seconds", 0.0) for one in told)
    peak = max((one.get("peak_bytes", 0.0) for one in told), default=0.0)
    hours = minutes_of(run.work_dir) / 60
    devices = f"{processes} device{'s' if processes > 1 else ''}"
    return {
        "training": (
            f"{_time(3600 * hours)} on {devices}: {hours * processes:.2f} device hours",
            f"{sum(lengths.values()):,} iterations, {images:,} images seen",
        ),
        "all stages": (_time(seconds),) if seconds else (),
        "most memory": (f"{peak / 2**30:.1f} GiB in one process",) if peak else (),
    }


def sha256(path: Path) -> str:
    """The file's hash, shortened to what is shown."""
    with path.open("rb") as file:
        return _short(hashlib.file_digest(file, "sha256").hexdigest())


def _short(digest: str) -> str:
    return f"sha256 {digest[:HASHED]}"


def _command(around: Mapping[str, Any]) -> Lines:
    words = [str(word) for word in around.get("command", [])[1:]]
    return (f"segue {shlex.join(words)}",) if words else ()


def _stages(run: Run) -> list[str]:
    found = []
    for name, stage in run.recipe.stages.items():
        told = [name if stage.kind in name else f"{name}, {stage.kind.replace('_', ' ')}"]
        if isinstance(stage, TrainStage):
            size = stage.batch_size * stage.accumulate
            told.append(f"{stage.iterations:,} iterations of {size} images")
        seconds = cost_of(run.work_dir, name).get("seconds")
        found.append(", ".join([*told, *([_time(seconds)] if seconds is not None else [])]))
    return found


def _first_weights(run: Run) -> list[str]:
    """Where each segmenter began: a file with its hash, a name, or at random."""
    found = []
    for name, stage in run.trainings().items():
        segmenter = stage.networks.get("segmenter")
        if segmenter is None:
            continue
        told = segmenter.load_from or segmenter.arguments.get("weights")
        if told in run.recipe.stages:
            continue
        path = Path(str(told))
        hashed = f", {sha256(path)}" if told and path.is_file() else ""
        found.append(f"{told}{hashed}" if told else f"{name}: drawn at random")
    return found


def _trained_weights(run: Run) -> list[str]:
    files = work_dir.files(run.work_dir)
    return [f"{path.relative_to(run.work_dir)}, {sha256(path)}" for path in files]


def _machine(around: Mapping[str, Any]) -> dict[str, Lines]:
    versions = [f"{name} {version}" for name, version in around.get("versions", {}).items()]
    if "python" in around:
        versions.append(f"python {around['python']}")
    device = around.get("device")
    processes = int(around.get("processes", 1))
    many = f"{processes} x " if processes > 1 else ""
    return {
        "versions": (", ".join(versions),) if versions else (),
        "machine": tuple(filter(None, (around.get("platform"), device and f"{many}{device}"))),
    }


def _time(seconds: float) -> str:
    """A duration for people.

    Example:
        >>> _time(42), _time(600), _time(9000)
        ('42 s', '10.0 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
