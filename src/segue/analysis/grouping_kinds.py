"""Do learnt groups hold one class each, better than k-means and factors do, as training goes on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from segue import work_dir
from segue.analysis.group_maps import grouping_of, member, stages_with_groups
from segue.analysis.samples import Image, images, probabilities
from segue.figures.figure import STYLE, WIDTH, leave, tell
from segue.figures.tiles import height_of, tile
from segue.label_space import distinct_colours
from segue.models.grouping_fit import GROUPINGS
from segue.work_dir import Run, runs_of

NAME = "grouping_kinds"
TITLES = {"learnt": "learnt", "k_means": "k-means", "dff": "DFF"}
PIXELS = 200  # of each image, from which fixed groupings are fitted
DOMAINS = ("source", "target")


@dataclass(frozen=True)
class Kind:
    """One grouping at one time of a run.

    Args:
        name: learnt, k_means or dff.
        stage: the train stage whose model it groups.
        shown: groups [H, W] of one image of each domain.
        share: [2, K], of each domain's pixels by group.
        agreement: with the predicted classes by domain: normalised mutual information, 0 to 1.
    """

    name: str
    stage: str
    shown: list[NDArray[np.int64]]
    share: NDArray[np.float64]
    agreement: list[float]

    @property
    def common(self) -> float:
        """How much the domains share the groups, 0 to 1: overlap of their shares."""
        return float(self.share.min(0).sum())


def measure(
    run: Run, stage: str, sets: Sequence[Sequence[Image]], *, seed: int = 0
) -> tuple[list[NDArray[np.int64]], list[Kind]]:
    """The predictions of one image of each domain, and all groupings by a stage's model.

    Args:
        run: one with a grouping network.
        stage: a train stage of it.
        sets: images of the source, then of the target.
        seed: of the pixels from which k-means and DFF are fitted.

    Raises:
        SegueError: predictions differ too little to fit as many groups.
    """
    from sklearn.metrics import normalized_mutual_info_score

    models = work_dir.load(run.work_dir / stage)
    learnt = grouping_of(run, stage)[1]
    every = [[probabilities(models, image) for image in images] for images in sets]
    rng, samples = np.random.default_rng(seed), []
    for of in (of for one in every for of in one):
        flat = of.flatten(1).T.numpy()
        samples.append(flat[rng.permutation(len(flat))[:PIXELS]])
    count = len(member(learnt, every[0][0]))
    networks = {"learnt": learnt}
    for name, kind in GROUPINGS.items():
        networks[name] = kind(groups=count)(np.concatenate(samples), seed)
    found = []
    for name, network in networks.items():
        grouped = [[member(network, of).argmax(0).numpy() for of in one] for one in every]
        agreement, share = [], []
        for maps, one in zip(grouped, every, strict=True):
            flat = np.concatenate([each.ravel() for each in maps])
            label = np.concatenate([of.argmax(0).numpy().ravel() for of in one])
            agreement.append(float(normalized_mutual_info_score(label, flat)))
            share.append(np.bincount(flat, minlength=count) / len(flat))
        shown = [maps[0] for maps in grouped]
        found.append(Kind(name, stage, shown, np.stack(share), agreement))
    return [one[0].argmax(0).numpy() for one in every], found


def alike(
    shown: Sequence[NDArray[np.int64]], other: Sequence[NDArray[np.int64]], groups: int
) -> NDArray[np.int64]:
    """For each group that one of the other maps which lies where it does, the most common first.

    Example:
        >>> alike([np.array([0, 0, 1])], [np.array([1, 1, 0])], 2).tolist()
        [1, 0]
    """
    counts = np.zeros((groups, groups), np.int64)
    for one, two in zip(shown, other, strict=True):
        np.add.at(counts, (one, two), 1)
    order = np.zeros(groups, np.int64)
    for _ in range(groups):
        own, like = np.unravel_index(counts.argmax(), counts.shape)
        order[own] = like
        counts[own], counts[:, like] = -1, -1
    return order


def draw(
    run: Run, shown: Sequence[Image], predicted: Sequence[NDArray[np.int64]], found: Sequence[Kind]
) -> Figure:
    """A column for each domain; images and predictions above, then a row for each grouping.

    Groups that lie alike have one colour.
    """
    with mpl.rc_context(STYLE):
        space, groups = run.classes, found[0].share.shape[1]
        palette = np.array(distinct_colours(groups), np.uint8)
        groups_of = [
            [palette[alike(kind.shown, found[0].shown, groups)[one]] for one in kind.shown]
            for kind in found
        ]
        colour = [space.colour(one.astype(np.uint8)) for one in predicted]
        pictures = [list(shown), colour, *groups_of]
        rows = ["image", "predicted", *(f"{TITLES[k.name]}\n{k.stage}" for k in found)]
        height = height_of(shown[0], 2, WIDTH - 0.5)
        size = (WIDTH, 0.3 + len(pictures) * (height + 0.08))
        figure = Figure(figsize=size, layout="constrained")
        tile(figure, pictures, columns=list(DOMAINS), rows=rows)
    return figure


def run(
    work_dir: Path, output: Path, *, source: str, target: str, count: int, console: Console
) -> list[Kind]:
    """Compares groupings by the model that each train stage of a run left; opens no label.

    Cross-domain grouping (AAAI 2021), figure 4.

    Differs: the paper shows iterations of one training; a work_dir keeps whole networks of each
    train stage, so those are compared. Agreement is with predicted classes.

    Raises:
        SegueError: the run has no grouping network.
    """
    one = runs_of([work_dir])[0]
    last, _ = grouping_of(one)
    stages = list(stages_with_groups(one))
    size = one.models(last).models[0].size
    sets = [[image for _, image in images(one.dataset(n), count, size)] for n in (source, target)]
    found: list[Kind] = []
    predicted: list[NDArray[np.int64]] = []
    with torch.no_grad():
        for stage in stages:
            predicted, kinds = measure(one, stage, sets)
            found += kinds
    # Fixed groupings first, of the last model alone, then the learnt one over time.
    fixed = [kind for kind in found if kind.name != "learnt" and kind.stage == last]
    figure = draw(
        one, [images[0] for images in sets], predicted,
        [*fixed, *(kind for kind in found if kind.name == "learnt")],
    )  # fmt: skip
    rows: list[dict[str, object]] = [
        {
            "grouping": kind.name, "stage": kind.stage, "domain": name,
            "agreement": kind.agreement[domain], "common": kind.common, "group": k + 1,
            "share": float(share),
        }
        for kind in found
        for domain, name in enumerate(DOMAINS)
        for k, share in enumerate(kind.share[domain])
    ]  # fmt: skip
    tell(leave(output, NAME, figure, rows), console)
    return found
