"""How far apart are the centres of classes in a network's features, before and after training?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from segue.errors import SegueError
from segue.figures.figure import OKABE_ITO, STYLE, WIDTH, leave, tell
from segue.figures.tiles import GREY, halves, name_classes
from segue.inference import model
from segue.label_space import LabelSpace
from segue.recipe import build as assembly
from segue.recipe.recipe import CentresStage, Recipe
from segue.runtime.processes import World, join
from segue.stages.centres import FILE, between, centres_of, epoch, sum_features
from segue.work_dir import Run, runs_of

NAME = "centres"


@dataclass(frozen=True)
class Centres:
    """Distances between the centres of classes, by one model.

    Args:
        model: the train stage whose features they are.
        distances: [C, C], 0 to 2; NaN where a class has no centre.
    """

    model: str
    distances: NDArray[np.float64]

    @property
    def nearest(self) -> NDArray[np.float64]:
        """From each class to the nearest other one, [C]; NaN where there is none."""
        other = np.where(np.eye(len(self.distances), dtype=bool), np.nan, self.distances)
        least = np.where(np.isnan(other), np.inf, other).min(1)
        return np.where(np.isinf(least), np.nan, least)


def measure(run: Run, *, feature: str, console: Console | None = None) -> list[Centres]:
    """Centres that a run's stages found, in order, then those that its last model would give.

    Where the run has no centres stage, those of each of its train stages, by `feature`.

    Raises:
        SegueError: a stage is not finished, or its model has no such feature.
    """
    stages = {n: s for n, s in run.recipe.stages.items() if isinstance(s, CentresStage)}
    trained = list(run.trainings())
    if not trained:
        fix = "give the work_dir of a run that trains"
        raise SegueError("has no train stage", where=run.work_dir, fix=fix)
    found = [_read(run, name, stage) for name, stage in stages.items()]
    if stages:
        last = list(stages.values())[-1]
        missing = [] if trained[-1] == last.model else [trained[-1]]
        settings = {name: last.model_copy(update={"model": name}) for name in missing}
    else:
        settings = {name: _settings(run, name, feature) for name in trained}
    return found + [_compute(run, stage, console) for stage in settings.values()]


def _settings(run: Run, name: str, feature: str) -> CentresStage:
    source = run.trainings()[name].source.model_copy(update={"augment": []})
    return CentresStage(kind="centres", source=source, model=name, feature=feature)


def _read(run: Run, name: str, stage: CentresStage) -> Centres:
    path = run.work_dir / name / FILE
    if not path.is_file():
        fix = "finish it: run the same command again"
        raise SegueError(f"stage {name} is not finished", where=run.work_dir, fix=fix)
    return Centres(stage.model, _matrix(json.loads(path.read_text())["distances"]))


def _matrix(distances: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    return np.array([[np.nan if d is None else d for d in row] for row in distances], np.float64)


def _compute(run: Run, stage: CentresStage, console: Console | None) -> Centres:
    recipe: Recipe = run.recipe
    world = World(device=join(recipe.device).device)
    segmenter = model.read(run.work_dir / stage.model / model.FILE, world.device).segmenter
    steps = epoch(
        assembly.readings(recipe, stage, run.work_dir),
        assembly.views(stage.views, where=f"centres of {stage.model}"),
        segmenter,
        seed=recipe.seed,
        workers=0,
        world=world,
        console=console,
        title=f"centres, {stage.model}",
    )
    with closing(steps):
        sums = sum_features(steps, stage.view, stage.feature, where=f"centres of {stage.model}")
    assert sums is not None
    return Centres(stage.model, _matrix(between(centres_of(*sums))))


def draw(found: Sequence[Centres], space: LabelSpace) -> Figure:
    """The first and the last matrix, and below the way of each class's nearest distance."""
    with mpl.rc_context(STYLE):
        seen = ~np.all([np.isnan(one.nearest) for one in found], axis=0)
        members = [int(k) for k in np.flatnonzero(seen)]
        ends = [found[0], found[-1]] if len(found) > 1 else [found[0]]
        upper, lower = 4.6, 0.8 + 0.28 * len(members)
        figure = Figure(figsize=(WIDTH, upper + lower), layout="constrained")
        above, below = halves(figure, upper, lower)
        table = above.subplots(1, len(ends), squeeze=False, sharey=True)[0]
        mapped = None
        colours = mpl.colormaps["cividis"].with_extremes(bad="#f2f2f2")
        for axes, one in zip(table, ends, strict=True):
            distances = one.distances[np.ix_(members, members)]
            mapped = axes.imshow(distances, cmap=colours, vmin=0, vmax=np.sqrt(2))
            axes.set_title(one.model)
            names = [space.classes[k] for k in members]
            axes.set_xticks(range(len(members)), names, rotation=90, fontsize=9)
            axes.tick_params(axis="both", length=0)
            axes.spines[:].set_visible(False)
        name_classes(table[0], space, members)
        table[0].tick_params(axis="y", labelsize=9)
        assert mapped is not None
        bar = above.colorbar(mapped, ax=table, location="bottom", shrink=0.6, aspect=35)
        bar.set_label("distance of two centres")
        _draw_nearest(below.subplots(), found, space, members)
    return figure


def _draw_nearest(
    axes: Axes, found: Sequence[Centres], space: LabelSpace, members: Sequence[int]
) -> None:
    ways = np.array([one.nearest for one in found])[:, members]
    for place, way in enumerate(ways.T):
        axes.plot(way, [place] * len(way), "-", color=GREY, alpha=0.6, linewidth=1.5)
        axes.plot(way[1:-1], [place] * len(way[1:-1]), "|", color=GREY, markersize=8)
        axes.plot(way[:1], [place], "o", color=OKABE_ITO[4], markersize=7)
        if len(way) > 1:
            axes.plot(way[-1:], [place], "D", color=OKABE_ITO[0], markersize=7)
    name_classes(axes, space, members)
    axes.set_xlim(0, None)
    axes.set_xlabel("distance to the nearest other class")
    axes.grid(axis="y", color=GREY, alpha=0.2)
    axes.spines["left"].set_visible(False)
    axes.plot([], [], "o", color=OKABE_ITO[4], label=found[0].model)
    if len(found) > 1:
        axes.plot([], [], "D", color=OKABE_ITO[0], label=found[-1].model)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)


def run(work_dir: Path, output: Path, *, feature: str, console: Console) -> list[Centres]:
    """Compares distances of class centres before and after the triplet loss.

    Coarse-to-fine (CVPR 2021), section 3.3. Labels of the source alone are opened.

    Raises:
        SegueError: as `measure` does.
    """
    one = runs_of([work_dir])[0]
    found, names = measure(one, feature=feature, console=console), one.classes.classes
    rows: list[dict[str, object]] = [
        {
            "model": by.model, "class": names[a], "other": names[b],
            "distance": float(by.distances[a, b]),
        }
        for by in found
        for a in range(len(names))
        for b in range(a)
        if not np.isnan(by.distances[a, b])
    ]  # fmt: skip
    if not rows:
        raise SegueError("fewer than two classes have centres", where=work_dir, fix="add images")
    tell(leave(output, NAME, draw(found, one.classes), rows), console)
    return found
