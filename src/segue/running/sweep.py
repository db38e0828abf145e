"""`segue sweep`: a recipe once per value of some settings, or per row of a paper's table."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from segue.errors import SegueError
from segue.parts import choose
from segue.recipe import load
from segue.recipe.files import setting
from segue.recipe.recipe import Ablation, Recipe
from segue.running.run import run
from segue.running.submit import Cluster, run_all
from segue.runtime.processes import World, join
from segue.storage.whole import write_whole
from segue.work_dir import evaluations

FILE = "sweep.csv"
JOBS = "jobs"


@dataclass(frozen=True)
class Point:
    """One choice of the settings that vary, or one row of a paper's table.

    Args:
        choice: value by key.
        settings: `key=value` that make it.
        below: recipes that it is laid over.
        value: the one setting by which the rows of a table differ, where they do by one.
        reported: what a paper reports for it by protocol, in per cent.
        miou: one per seed, 0 to 1, of the headline protocol.
        others: the same of further protocols, by name.
    """

    choice: dict[str, Any]
    settings: list[str]
    below: list[str] = field(default_factory=list)
    value: dict[str, Any] = field(default_factory=dict)
    reported: dict[str, float] = field(default_factory=dict)
    miou: list[float] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Mean, with the sample standard deviation where there are several seeds, in per cent."""
        return with_spread(self.miou)

    def add(self, scores: Mapping[str, float]) -> None:
        """Takes in one seed's mean IoU by protocol, the headline first."""
        (_, headline), *further = scores.items()
        self.miou.append(headline)
        for protocol, score in further:
            self.others.setdefault(protocol, []).append(score)


def with_spread(scores: Sequence[float]) -> str:
    """Mean, with the sample standard deviation where there are several, in per cent.

    Example:
        >>> with_spread([0.5])
        '50.0'
    """
    mean = f"{100 * statistics.mean(scores):.1f}"
    spread = 100 * statistics.stdev(scores) if len(scores) > 1 else None
    return mean if spread is None else f"{mean} \u00b1 {spread:.1f}"


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

    Args:
        name: the recipe.
        settings: `key=value`, where a list tries each of its values. A setting that is itself a
            list, as an image size, is written as a list of lists.
        ablation: one of the recipe's, whose rows are run with these settings laid over them.
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
        points = rows_of(recipe, ablation, settings)
        reported = reported_for(recipe, recipe.ablations[ablation])
    runs = [
        (point, folder / (label(point.choice) or "run") / f"seed_{seed}",
         load(name, [*point.settings, f"seed={seed}"], below=point.below))
        for point in points
        for seed in range(seeds)
    ]  # fmt: skip
    if cluster is not None:
        run_all([(one, where) for _, where, one in runs], cluster, folder / JOBS, console)
    headline = ""
    for point, where, one in runs:
        scores = _score(one, where, console) if cluster is None else _found(where)
        point.add(scores)
        headline = next(iter(scores))
    table = _table(points, headline, reported)
    world = World() if cluster is not None else join(runs[0][2].device)
    if world.leads:
        _write(points, folder / FILE)
        write_whole(folder / "sweep.md", lambda file: file.write(_markdown(table).encode()))
    if console is not None:
        console.print(_shown(table))
        console.print(str(folder / FILE), style="dim")
    return points


def rows_of(recipe: Recipe, ablation: str, settings: Sequence[str]) -> list[Point]:
    """The rows of one of a recipe's ablations, as in the paper."""
    chosen = choose(recipe.ablations, ablation, where=recipe.name, what="ablation")
    alone = [dict(setting(text) for text in one.settings) for one in chosen.rows.values()]
    curve = len(alone) > 1 and all(list(one) == list(alone[0]) for one in alone)
    return [
        Point(
            {"row": row},
            [*one.settings, *settings],
            below=one.below,
            value=value if curve and len(value) == 1 else {},
            reported=one.reported,
        )
        for (row, one), value in zip(chosen.rows.items(), alone, strict=True)
    ]


def reported_for(recipe: Recipe, ablation: Ablation) -> dict[str, str]:
    """The headings of a paper's figures by protocol, which say so where they are of another task.

    They are of the same where the recipe is that which they were reported for, and shows them.
    """
    found = list(dict.fromkeys(name for row in ablation.rows.values() for name in row.reported))
    shown = recipe.shown_protocols()
    headings = {}
    for protocol in found:
        heading = f"reported, {ablation.where}"
        if recipe.name != ablation.of or protocol not in shown:
            heading += f", for {ablation.of} (protocol {protocol})"
        elif len(found) > 1:
            heading += f" (protocol {protocol})"
        headings[protocol] = heading
    return headings


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


def _score(recipe: Recipe, where: Path, console: Console | None) -> dict[str, float]:
    run(recipe, where, console=console)
    return _found(where)


def _found(where: Path) -> dict[str, float]:
    """A finished run's mean IoU by protocol, the headline first."""
    return list(evaluations(where).values())[-1].miou


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
