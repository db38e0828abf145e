"""How does the score follow a setting, such as the number of groups or the patch size?"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console

from segue.errors import SegueError
from segue.figures.figure import OKABE_ITO, STYLE, WIDTH, leave, tell
from segue.figures.tiles import GREY
from segue.recipe.safe_yaml import parsed
from segue.running.sweep import FILE

WHOLE = "whole"
SIZE = "whole map"


@dataclass(frozen=True)
class Swept:
    """The scores for one value of a setting.

    Args:
        value: as swept; None is the whole map of a patch size.
        scores: mIoU by seed, in per cent.
    """

    value: float | None
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.mean(self.scores)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds, where there are several."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


def measure(path: Path, setting: str) -> list[Swept]:
    """Scores of a sweep by the value of a setting, ascending; of the same value all together.

    Args:
        path: a `sweep.csv`, or the folder that holds it.
        setting: the last part of the swept key, such as `groups`.

    Raises:
        SegueError: there is no such file, or it did not sweep that setting.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise SegueError("holds no sweep", where=path, fix=f"give the {FILE} of `segue sweep`")
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows, header = list(reader), reader.fieldnames or []
    keys = [key for key in header if key.rsplit(".", 1)[-1] == setting]
    if not keys or "miou" not in header or not rows:
        swept = ", ".join(key for key in header if key not in ("seed", "miou")) or "nothing"
        fix = f"sweep a key that ends in .{setting} (there: {swept})"
        raise SegueError(f"did not vary {setting}", where=file, fix=fix)
    found: dict[float | None, list[float]] = {}
    for row in rows:
        found.setdefault(_value(row[keys[0]], file), []).append(_score(row["miou"], file))
    order = sorted(found, key=lambda value: float("inf") if value is None else value)
    return [Swept(value, tuple(found[value])) for value in order]


def _value(text: str, file: Path) -> float | None:
    if text in ("", "None", "null", WHOLE):
        return None
    value = parsed(text, where=file)
    if not isinstance(value, int | float):
        fix = "sweep numbers, or null for the whole map"
        raise SegueError(f"{text!r} is no number", where=file, fix=fix)
    return float(value)


def _score(text: str, file: Path) -> float:
    try:
        return 100 * float(text)
    except ValueError:
        fix = "run the sweep again"
        raise SegueError(f"mIoU {text!r} is no number", where=file, fix=fix) from None


def draw(found: Sequence[Swept], *, title: str, axis: str) -> Figure:
    """Mean with the spread over seeds as a band, each seed as a dot; values evenly apart."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        places, mean = list(range(len(found))), [one.mean for one in found]
        low = [one.mean - (one.spread or 0) for one in found]
        high = [one.mean + (one.spread or 0) for one in found]
        axes.fill_between(places, low, high, color=OKABE_ITO[0], alpha=0.15, linewidth=0)
        for place, one in enumerate(found):
            if len(one.scores) > 1:
                dots = [place] * len(one.scores)
                axes.plot(dots, one.scores, ".", color=OKABE_ITO[0], alpha=0.5, markersize=6)
        axes.plot(places, mean, "o-", color=OKABE_ITO[0], markersize=7, linewidth=2)
        best = max(places, key=lambda place: mean[place])
        axes.annotate(
            f"{mean[best]:.1f}", (best, high[best]), xytext=(0, 6), textcoords="offset points",
            ha="center", color=OKABE_ITO[0],
        )  # fmt: skip
        axes.set_xticks(places, [SIZE if one.value is None else f"{one.value:g}" for one in found])
        axes.margins(x=0.06, y=0.2)
        axes.set(xlabel=axis, ylabel="mIoU, %")
        axes.set_title(title, loc="left", color=GREY)
        axes.grid(axis="y", color=GREY, alpha=0.25)
    return figure


def run(
    path: Path, output: Path, *, name: str, setting: str, axis: str, console: Console
) -> list[Swept]:
    """Draws the mean score over the values of a setting, with its spread over seeds.

    Cross-domain grouping (AAAI 2021), figure 6, of `groups`; local alignment (ACCV 2020), figure
    8a, of `patch`.

    Raises:
        SegueError: no such sweep is there.
    """
    found = measure(path, setting)
    seeds = {len(one.scores) for one in found}
    several = "mean and standard deviation over seeds" if max(seeds) > 1 else "one seed"
    rows: list[dict[str, object]] = [
        {
            setting: WHOLE if one.value is None else one.value, "seeds": len(one.scores),
            "miou_mean": one.mean, "miou_spread": one.spread,
        }
        for one in found
    ]  # fmt: skip
    tell(leave(output, name, draw(found, title=several, axis=axis), rows), console)
    return found
