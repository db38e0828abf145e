"""Which pseudo-label rule keeps more pixels at the same precision, round by round?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from segue.errors import SegueError
from segue.figures.figure import MARKERS, OKABE_ITO, STYLE, WIDTH, leave, tell
from segue.figures.tiles import GREY, halves, name_classes
from segue.label_space import LabelSpace
from segue.recipe.recipe import PseudoLabelStage
from segue.stages.pseudo_label import FILE
from segue.work_dir import Run, runs_of

NAME = "kept"


@dataclass(frozen=True)
class Round:
    """What a run's rule kept in one round.

    Args:
        run: its name.
        number: of the round, from 1.
        rule: the kind.
        share: kept of all pixels, 0 to 1.
        precision: of all that is kept, the share that is right; None where nothing was measured.
        share_by_class: of the pixels predicted as a class; None where there is none.
        precision_by_class: as `precision`; empty where nothing was measured.
    """

    run: str
    number: int
    rule: str
    share: float
    precision: float | None
    share_by_class: dict[str, float | None]
    precision_by_class: dict[str, float | None]


def measure(run: Run) -> list[Round]:
    """The rounds of a run, as its pseudo_label stages told of them.

    Raises:
        SegueError: it has no such stage, or one is not finished.
    """
    stages = run.recipe.stages.items()
    names = [name for name, stage in stages if isinstance(stage, PseudoLabelStage)]
    if not names:
        fix = "give a run of a recipe with a pseudo_label stage"
        raise SegueError("makes no pseudo-labels", where=run.work_dir, fix=fix)
    return [_read(run, name, number) for number, name in enumerate(names, 1)]


def _read(run: Run, name: str, number: int) -> Round:
    path = run.work_dir / name / FILE
    if not path.is_file():
        fix = "finish it: run the same command again"
        raise SegueError(f"stage {name} is not finished", where=run.work_dir, fix=fix)
    told = json.loads(path.read_text())
    rule, measured = told["rule"], told.get("measured", {})
    return Round(
        run.name,
        number,
        rule if isinstance(rule, str) else rule["kind"],
        told["total"]["share_kept"],
        measured.get("accuracy"),
        told["share_kept"],
        measured.get("precision", {}),
    )


def draw(found: Sequence[Sequence[Round]], space: LabelSpace) -> Figure:
    """Precision against share kept, a line for each run; by round where nothing was measured.

    Below, the last round by class: share kept, and filled where it is right.
    """
    with mpl.rc_context(STYLE):
        last = [rounds[-1] for rounds in found]
        members = [
            k
            for k, name in enumerate(space.classes)
            if any(one.share_by_class[name] is not None for one in last)
        ]
        upper, lower = 3.4, 1.0 + 0.3 * len(members) + 0.25 * len(found)
        figure = Figure(figsize=(WIDTH, upper + lower), layout="constrained")
        above, below = halves(figure, upper, lower)
        measured = all(one.precision is not None for rounds in found for one in rounds)
        _draw_rounds(above.subplots(), found, measured)
        axes = below.subplots()
        for number, one in enumerate(last):
            names, place = [space.classes[k] for k in members], (number + 0.5) / len(last) - 0.5
            _draw_classes(axes, one, names, 0.76 * place, number, measured)
        name_classes(axes, space, members)
        axes.set(xlim=(0, 100), xlabel=f"kept in the last round, %{_RIGHT if measured else ''}")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GREY, alpha=0.25)
        below.legend(*above.axes[0].get_legend_handles_labels(), loc="outside lower center")
    return figure


_RIGHT = " (pale: kept but wrong)"


def _draw_rounds(axes: Axes, found: Sequence[Sequence[Round]], measured: bool) -> None:
    for number, rounds in enumerate(found):
        colour = OKABE_ITO[number % len(OKABE_ITO)]
        share = [100 * one.share for one in rounds]
        right = [100 * (one.precision or 0) for one in rounds]
        across, up = (share, right) if measured else ([one.number for one in rounds], share)
        told = f"{rounds[0].run} ({rounds[0].rule.replace('_', ' ')})"
        axes.plot(
            across, up, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=8,
            label=told,
        )  # fmt: skip
        if measured:
            for one, x, y in zip(rounds, across, up, strict=True):
                axes.annotate(
                    str(one.number), (x, y), xytext=(0, 7), textcoords="offset points",
                    ha="center", fontsize=10, color=colour,
                )  # fmt: skip
    axes.margins(0.12)
    axes.grid(color=GREY, alpha=0.25)
    if measured:
        axes.set(xlabel="kept of all pixels, %", ylabel="precision, %")
        axes.set_title("numbers are rounds; up and right is better", loc="left", color=GREY)
    else:
        most = max(len(rounds) for rounds in found)
        axes.set(xlabel="round", ylabel="kept of all pixels, %", ylim=(0, 100))
        axes.set_xticks(range(1, most + 1))


def _draw_classes(
    axes: Axes, one: Round, names: Sequence[str], place: float, number: int, measured: bool
) -> None:
    share = [100 * (one.share_by_class[name] or 0) for name in names]
    places = [row + place for row in range(len(names))]
    colour, height = OKABE_ITO[number % len(OKABE_ITO)], 0.2
    axes.barh(places, share, height, color=colour, alpha=0.3 if measured else 1.0)
    if measured:
        right = [
            part * (one.precision_by_class[name] or 0)
            for part, name in zip(share, names, strict=True)
        ]
        axes.barh(places, right, height, color=colour)


def run(work_dirs: Sequence[Path], output: Path, *, console: Console) -> list[list[Round]]:
    """Compares what the rules of runs kept; without measured labels the share alone.

    Category-adaptive thresholds (ICASSP 2021) are argued with their balance over classes, of which
    the paper has no table; this is ours.

    Raises:
        SegueError: a run makes no pseudo-labels.
    """
    runs = runs_of(work_dirs)
    found = [measure(one) for one in runs]
    rows: list[dict[str, object]] = []
    for one in (one for rounds in found for one in rounds):
        line = {"run": one.run, "round": one.number, "rule": one.rule}
        every = {"class": "all", "share_kept": one.share, "precision": one.precision}
        rows.append({**line, **every})
        rows += [
            {
                **line, "class": name, "share_kept": share,
                "precision": one.precision_by_class.get(name),
            }
            for name, share in one.share_by_class.items()
        ]  # fmt: skip
    tell(leave(output, NAME, draw(found, runs[0].classes), rows), console)
    return found
