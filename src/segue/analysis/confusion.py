"""Which classes are taken for which?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from segue.errors import SegueError
from segue.figures.figure import STYLE, WIDTH, leave, tell
from segue.figures.tiles import name_classes
from segue.inference.evaluation import Evaluation
from segue.label_space import LabelSpace
from segue.work_dir import Run, evaluations, runs_of

NAME = "confusion"
Counts = NDArray[np.int64]
LEAST = 1e-4  # share of a class's pixels at the dark end of the scale


def measure(run: Run) -> Evaluation:
    """What a run's last evaluate stage counted.

    Raises:
        SegueError: the run was not scored.
    """
    found = list(evaluations(run.work_dir).values())
    if not found:
        fix = "add an evaluate stage to its recipe, with a labelled dataset"
        raise SegueError("was never scored", where=run.work_dir, fix=fix)
    return found[-1]


def shares(counts: Counts) -> NDArray[np.float64]:
    """Each row's counts as shares of the row; NaN in a row without any.

    Example:
        >>> shares(np.array([[3, 1], [0, 0]])).tolist()
        [[0.75, 0.25], [nan, nan]]
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(1, keepdims=True), np.float64)


def draw(found: Mapping[str, Counts], space: LabelSpace) -> Figure:
    """A matrix for each run, two in a row: labels down, predictions across, in log scale."""
    with mpl.rc_context(STYLE):
        seen = sum(counts.sum(0) + counts.sum(1) for counts in found.values())
        members = [k for k in range(space.num_classes) if np.asarray(seen)[k]]
        across = min(2, len(found))
        down = -(-len(found) // across)
        side = (WIDTH - 1.9) / across if across > 1 else 4.0
        size = (WIDTH, 0.6 + down * (side + 1.5))
        figure = Figure(figsize=size, layout="constrained")
        table = figure.subplots(down, across, squeeze=False, sharey=True)
        norm = LogNorm(LEAST, 1)
        colours = mpl.colormaps["viridis"].with_extremes(bad="#f2f2f2", under="#2b0038")
        mapped = None
        for axes, (name, counts) in zip(table.flat, found.items(), strict=False):
            share = shares(counts)[np.ix_(members, members)]
            mapped = axes.imshow(np.where(share > 0, share, np.nan), cmap=colours, norm=norm)
            axes.set_title(name)
            axes.set_xticks(
                range(len(members)), [space.classes[k] for k in members],
                rotation=90, fontsize=9,
            )  # fmt: skip
            axes.tick_params(axis="both", length=0)
            axes.spines[:].set_visible(False)
        for line in table:
            name_classes(line[0], space, members)
            line[0].tick_params(axis="y", labelsize=9)
            line[0].set_ylabel("label")
        for axes in table.flat[len(found) :]:
            axes.set_visible(False)
        assert mapped is not None
        bar = figure.colorbar(
            mapped, ax=table, location="bottom", shrink=0.7, aspect=35, extend="min",
            format=lambda share, _: f"{share:g}",
        )  # fmt: skip
        bar.set_label("share of the label's pixels that is predicted as …")
    return figure


def run(work_dirs: Sequence[Path], output: Path, *, console: Console) -> dict[str, Counts]:
    """Confusion matrices of runs over all scored images, next to each other.

    Local alignment (ACCV 2020), figure 7.

    Differs: the paper shows counts; here each row is divided by its label's pixels, so that rare
    classes can be read too. The counts are in the CSV.

    Raises:
        SegueError: a run was not scored.
    """
    runs = runs_of(work_dirs)
    found = {one.name: measure(one).confusion for one in runs}
    space = runs[0].classes
    rows: list[dict[str, object]] = []
    for name, counts in found.items():
        share = shares(counts)
        rows += [
            {
                "run": name, "label": label, "predicted": predicted,
                "pixels": int(counts[a, b]), "share_of_label": float(share[a, b]),
            }
            for a, label in enumerate(space.classes)
            for b, predicted in enumerate(space.classes)
        ]  # fmt: skip
    tell(leave(output, NAME, draw(found, space), rows), console)
    return found
