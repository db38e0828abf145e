"""Do output probabilities of one class lie together, whichever domain they are from?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.lines
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from segue.analysis.samples import probabilities, spread
from segue.datasets import Dataset
from segue.datasets.dataset import resize_label
from segue.errors import SegueError
from segue.figures.figure import STYLE, WIDTH, leave, tell
from segue.figures.tiles import unit
from segue.label_space import IGNORE, LabelSpace
from segue.recipe.recipe import EvaluateStage
from segue.work_dir import Run, runs_of

NAME = "tsne"
DOMAINS = ("source", "target")
FEWEST = 10  # pixels from which a map can be made


@dataclass(frozen=True)
class Mapped:
    """Pixels of both domains on a plane.

    Args:
        run: its name.
        place: [N, 2].
        member: [N] class: of the label where the images have labels, else as predicted.
        domain: [N], 0 source and 1 target.
    """

    run: str
    place: NDArray[np.float32]
    member: NDArray[np.int64]
    domain: NDArray[np.int64]


def measure(run: Run, datasets: Sequence[Dataset], *, count: int, pixels: int) -> Mapped:
    """t-SNE of a run's probability vectors at random pixels, the same for every run.

    Raises:
        SegueError: too few pixels are labelled.
    """
    from sklearn.manifold import TSNE

    models = run.models()
    size = models.models[0].size
    vectors, members, domains = [], [], []
    for domain, dataset in enumerate(datasets):
        chosen = spread(len(dataset), count)
        for index in chosen:
            of = (
                probabilities(models, dataset.read_by(models.range).image(index, size))
                .flatten(1)
                .T.numpy()
            )
            # Drawn by the image, so that runs are shown the same pixels.
            order = np.random.default_rng([domain, index]).permutation(len(of))
            member = of.argmax(1)
            if dataset.labelled:
                member = resize_label(dataset.label(index), size).ravel().astype(np.int64)
            order = order[member[order] != IGNORE][: -(-pixels // len(chosen))]
            vectors.append(of[order])
            members.append(member[order])
            domains.append(np.full(len(order), domain))
    whole = np.concatenate(vectors)
    if len(whole) < FEWEST:
        fix = "ask for more --pixels, or look at other data"
        raise SegueError(f"only {len(whole)} pixels to map", where=run.work_dir, fix=fix)
    perplexity = min(30.0, (len(whole) - 1) / 3)
    solver = TSNE(2, perplexity=perplexity, init="pca", random_state=0, max_iter=500)
    place = solver.fit_transform(whole)
    return Mapped(run.name, place, np.concatenate(members), np.concatenate(domains))


def draw(found: Sequence[Mapped], space: LabelSpace, *, by: str) -> Figure:
    """A map for each run: the colour is the class, full dots are source and rings target."""
    with mpl.rc_context(STYLE):
        across = min(2, len(found))
        down = -(-len(found) // across)
        figure = Figure(figsize=(WIDTH, 1.3 + down * WIDTH / across), layout="constrained")
        table = figure.subplots(down, across, squeeze=False)
        members = [int(k) for k in np.unique(np.concatenate([one.member for one in found]))]
        for axes, one in zip(table.flat, found, strict=False):
            for k in members:
                for domain in (0, 1):
                    x, y = one.place[(one.member == k) & (one.domain == domain)].T
                    face = unit(space.colours[k]) if domain == 0 else "none"
                    axes.scatter(
                        x, y, 12, facecolors=face, edgecolors=[unit(space.colours[k])],
                        linewidths=0 if domain == 0 else 0.9, alpha=0.75,
                    )  # fmt: skip
            axes.set(title=one.run, xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="#bbbbbb")
        for axes in table.flat[len(found) :]:
            axes.set_visible(False)
        marks = [
            mpl.lines.Line2D([], [], color=unit(space.colours[k]), marker="o", linestyle="",
                             label=space.classes[k])
            for k in members
        ]  # fmt: skip
        for text, face in ((f"source, by {by}", "#444444"), (f"target, by {by}", "none")):
            marks.append(
                mpl.lines.Line2D([], [], color="#444444", marker="o", linestyle="",
                                 markerfacecolor=face, label=text)
            )  # fmt: skip
        figure.legend(handles=marks, loc="outside lower center", ncols=3, handletextpad=0.2)
    return figure


def run(
    work_dirs: Sequence[Path],
    output: Path,
    *,
    source: str,
    data: str | None,
    count: int,
    pixels: int,
    console: Console,
) -> list[Mapped]:
    """Maps what runs say of the same pixels of both domains.

    Cross-domain grouping (AAAI 2021), figure 5. Classes are those of labels where the target set is
    one that the run is scored on, else those predicted.

    Raises:
        SegueError: a folder holds no finished run, or there are too few pixels.
    """
    runs = runs_of(work_dirs)
    named = (source, data or runs[0].looked_at)
    # Only a set that is scored is known to have labels.
    stages = runs[0].recipe.stages.values()
    labelled = named[1] in {one.data for one in stages if isinstance(one, EvaluateStage)}
    datasets = [runs[0].dataset(name, labels=labelled) for name in named]
    by = "label" if labelled else "prediction"
    found = [measure(one, datasets, count=count, pixels=pixels) for one in runs]
    space = runs[0].classes
    rows: list[dict[str, object]] = [
        {
            "run": one.run, "domain": DOMAINS[int(domain)], "class": space.classes[int(k)],
            "class_by": by, "x": float(x), "y": float(y),
        }
        for one in found
        for (x, y), k, domain in zip(one.place, one.member, one.domain, strict=True)
    ]  # fmt: skip
    tell(leave(output, NAME, draw(found, space, by=by), rows), console)
    return found
