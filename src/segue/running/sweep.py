"""`segue sweep`: a recipe once per value of some settings, or per row of a paper's table."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from segue.errors import SegueError
from segue.recipe import load
from segue.recipe.files import setting
from segue.recipe.recipe import Recipe
from segue.running.ablation import Point, reported_for, rows_of, scoring, with_spread
from segue.running.run import run
from segue.running.submit import Cluster, run_all
from segue.runtime.processes import World, join
from segue.storage.whole import write_whole
from segue.work_dir import evaluations, recipe_of

FILE = "sweep.csv"
JOBS = "jobs"


def sweep(
    name: str,
    settings: Sequence[str],
    *,
    ablation: str | None = None,
    seeds: int = 1,
    work_dir: Path | None = None,
    cluster: Cluster | None = None,
    console: Console | None = None,
) -> list[Point]:
    """Runs every combination, or every row of an ablation, with every seed, each only once.

    Rows that differ in which model they show are read from one run.

    Args:
        name: the recipe.
        settings: `key=value`, where a list tries each of its values. A setting that is itself a
            list, as an image size, is written as a list of lists.
        ablation: one of the recipe's, whose rows are laid over the recipe with these settings.
        seeds: 0 to `seeds` - 1 for each combination.
        work_dir: a folder for each run, `sweep.csv` and `sweep.md`.
        cluster: where each run becomes a job; None runs them here, one after the other.
        console: where progress and the table are shown.

    Raises:
        SegueError: a setting will not do; all are checked before the first run. Or jobs failed.
    """
    recipe = load(name)
    title = f"-{ablation}" if ablation else ""
    folder = work_dir or Path("runs") / f"sweep-{Path(name).stem}{title}"
    points = combined(settings)
    reported: dict[str, str] = {}
    if ablation is not None:
        points = rows_of(name, recipe, ablation, settings)
        reported = reported_for(recipe, recipe.ablations[ablation])
    notes = [f"{point.name}: {text} changes nothing here" for point in points
             for text in point.without]  # fmt: skip
    if console is not None:
        for note in notes:
            console.print(note, style="yellow", highlight=False)
    runs = planned(name, points, seeds, folder)
    if cluster is not None:
        run_all(list({w: (one, w) for _, w, one in runs}.values()), cluster, folder / JOBS, console)
    headline, ran = "", set[Path]()
    for point, where, one in runs:
        if cluster is None and where not in ran:
            run(one, where, console=console)
            ran.add(where)
        scores = _score(where, point.model)
        point.add(scores)
        headline = next(iter(scores))
    table = _table(points, headline, reported)
    world = World() if cluster is not None else join(runs[0][2].device)
    if world.leads:
        _write(points, folder / FILE)
        page = _markdown(table) + "".join(f"\n{note}\n" for note in notes)
        write_whole(folder / "sweep.md", lambda file: file.write(page.encode()))
    if console is not None:
        console.print(_shown(table))
        console.print(str(folder / FILE), style="dim")
    return points


def planned(
    name: str, points: Sequence[Point], seeds: int, folder: Path
) -> list[tuple[Point, Path, Recipe]]:
    """Every point with every seed: where its run lies, and of which recipe.

    Raises:
        SegueError: a setting is refused, or nothing scores the model that a point shows.
    """
    # Of points that are read from one run the last names its folder.
    places = {point.run: folder / (label(point.choice) or "run") for point in points}
    runs = [
        (point, places[point.run] / f"seed_{seed}",
         load(name, [*point.settings, f"seed={seed}"], below=point.below))
        for point in points
        for seed in range(seeds)
    ]  # fmt: skip
    for point, _, recipe in runs:
        scoring(recipe, point.model)
    return runs


def combined(settings: Sequence[str]) -> list[Point]:
    """A point for every combination of values, told by the keys that vary."""
    varying = varied(settings)
    return [
        Point({key: choice[key] for key in varying}, as_overrides(choice))
        for choice in combinations(settings)
    ]


def combinations(settings: Sequence[str]) -> list[dict[str, Any]]:
    """Every choice of values, the last key varying fastest.

    Example:
        >>> combinations(["a=1", "b=[2,3]"])
        [{'a': 1, 'b': 2}, {'a': 1, 'b': 3}]
    """
    told = [setting(one) for one in settings]
    empty = next((key for key, value in told if value == []), None)
    if empty is not None:
        raise SegueError("has no value to try", where=empty, fix="list one or more")
    lists = [value if isinstance(value, list) else [value] for _, value in told]
    keys = [key for key, _ in told]
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


def _score(where: Path, model: str | None) -> dict[str, float]:
    """A finished run's mean IoU by protocol, the headline first; of the last model unless told."""
    return evaluations(where)[scoring(recipe_of(where), model)].miou


def _write(points: Sequence[Point], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*points[0].choice, *points[0].value, "seed", "miou"])
    for point in points:
        for seed, score in enumerate(point.miou):
            writer.writerow([*point.choice.values(), *point.value.values(), seed, score])
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def _table(points: Sequence[Point], headline: str, reported: Mapping[str, str]) -> list[list[str]]:
    """Header and lines; what a paper reports, and under which protocols, stands last.

    Beside the headline stand those protocols of ours that the paper has figures for.
    """
    keys = [key.removeprefix("stages.") for key in points[0].choice]
    others = [protocol for protocol in points[0].others if protocol in reported]
    means = [f"mIoU (protocol {protocol})" for protocol in (headline, *others)]
    lines = [[*keys, *means, *reported.values()]]
    for point in points:
        ours = [point.text, *(with_spread(point.others[protocol]) for protocol in others)]
        theirs = [
            f"{point.reported[protocol]:g}" if protocol in point.reported else ""
            for protocol in reported
        ]
        lines.append([*(str(value) for value in point.choice.values()), *ours, *theirs])
    return lines


def _shown(lines: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None)
    for key in lines[0]:
        numbers = key.startswith(("mIoU", "reported"))
        table.add_column(key, overflow="fold", justify="right" if numbers else "left")
    for line in lines[1:]:
        table.add_row(*line)
    return table


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    told = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    whole = [told[0], ["---"] * len(told[0]), *told[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in whole)
