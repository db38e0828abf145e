"""`segue sweep`: a recipe once per value of some settings, compared in one table."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from segue.checkpoint import write_whole
from segue.recipe import Recipe, load
from segue.running import run
from segue.showing import evaluations

FILE = "sweep.csv"


@dataclass(frozen=True)
class Point:
    """One choice of the settings that vary.

    Args:
        choice: value by key.
        miou: one per seed, 0 to 1, of the headline protocol.
    """

    choice: dict[str, Any]
    miou: list[float]

    @property
    def text(self) -> str:
        """Mean, with the sample standard deviation where there are several seeds, in per cent."""
        mean = f"{100 * statistics.mean(self.miou):.1f}"
        spread = 100 * statistics.stdev(self.miou) if len(self.miou) > 1 else None
        return mean if spread is None else f"{mean} \u00b1 {spread:.1f}"


def sweep(
    name: str,
    settings: Sequence[str],
    *,
    seeds: int = 1,
    work_dir: Path | None = None,
    console: Console | None = None,
) -> list[Point]:
    """Runs every combination with every seed; finished ones are not run again.

    Args:
        name: the recipe.
        settings: `key=value`, where a list tries each of its values. A setting that is itself a
            list, as an image size, is written as a list of lists.
        seeds: 0 to `seeds` - 1 for each combination.
        work_dir: a folder for each run, and `sweep.csv`.
        console: where progress and the table are shown.

    Raises:
        SegueError: a setting will not do; all are checked before the first run.
    """
    folder = work_dir or Path("runs") / f"sweep-{Path(name).stem}"
    runs = [
        (choice, seed, load(name, [*as_overrides(choice), f"seed={seed}"]))
        for choice in combinations(settings)
        for seed in range(seeds)
    ]
    varying = varied(settings)
    points: list[Point] = []
    protocol = ""
    for choice, seed, recipe in runs:
        shown = {key: choice[key] for key in varying}
        where = folder / (label(shown) or "run") / f"seed_{seed}"
        protocol, score = _score(recipe, where, console)
        if seed == 0:
            points.append(Point(shown, []))
        points[-1].miou.append(score)
    _write(points, folder / FILE)
    if console is not None:
        console.print(_table(points, varying, protocol))
        console.print(str(folder / FILE), style="dim")
    return points


def combinations(settings: Sequence[str]) -> list[dict[str, Any]]:
    """Every choice of values, the last key varying fastest.

    Example:
        >>> combinations(["a=1", "b=[2,3]"])
        [{'a': 1, 'b': 2}, {'a': 1, 'b': 3}]
    """
    keys = [setting.partition("=")[0] for setting in settings]
    values = [yaml.safe_load(setting.partition("=")[2]) for setting in settings]
    lists = [value if isinstance(value, list) else [value] for value in values]
    return [dict(zip(keys, choice, strict=True)) for choice in itertools.product(*lists)]


def varied(settings: Sequence[str]) -> list[str]:
    """The keys that have more than one value."""
    every = combinations(settings)
    return [key for key in every[0] if any(one[key] != every[0][key] for one in every)]


def as_overrides(choice: dict[str, Any]) -> list[str]:
    """A choice as the command line writes it."""
    flow = {key: yaml.safe_dump(value, default_flow_style=True) for key, value in choice.items()}
    return [f"{key}={text.removesuffix('...' + chr(10)).strip()}" for key, text in flow.items()]


def label(shown: dict[str, Any]) -> str:
    """A folder's name for a choice.

    Example:
        >>> label({"stages.train.terms.alignment.patch": 64})
        'patch_64'
    """
    parts = (f"{key.rsplit('.', 1)[-1]}_{value}" for key, value in shown.items())
    kept = "-".join(parts)
    return "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in kept)


def _score(recipe: Recipe, where: Path, console: Console | None) -> tuple[str, float]:
    run(recipe, where, console=console)
    result = list(evaluations(where).values())[-1]
    return next(iter(result.miou.items()))


def _write(points: Sequence[Point], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*points[0].choice, "seed", "miou"])
    for point in points:
        for seed, score in enumerate(point.miou):
            writer.writerow([*point.choice.values(), seed, score])
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def _table(points: Sequence[Point], varying: Sequence[str], protocol: str) -> Table:
    table = Table(box=None)
    for key in varying:
        table.add_column(key.removeprefix("stages."), overflow="fold")
    table.add_column(f"mIoU (protocol {protocol})", justify="right")
    for point in points:
        table.add_row(*(str(value) for value in point.choice.values()), point.text)
    return table
