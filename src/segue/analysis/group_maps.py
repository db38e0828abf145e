"""What does each group of a grouping network hold, in source and target images?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from segue import work_dir
from segue.analysis.samples import Image, images, probabilities
from segue.errors import SegueError
from segue.figures.figure import OKABE_ITO, STYLE, WIDTH, leave, tell
from segue.figures.tiles import height_of, tile
from segue.label_space import LabelSpace
from segue.models.table import NETWORKS
from segue.models.weights import load_weights
from segue.parts import build
from segue.recipe.recipe import NetworkSettings
from segue.stages.train import NETWORKS as FOLDER
from segue.work_dir import Run, runs_of

NAME = "groups"
KINDS = ("grouping", "k_means_grouping", "dff_grouping")


@dataclass(frozen=True)
class Grouped:
    """An image and what a grouping makes of it.

    Args:
        domain: source or target.
        image: [H, W, 3].
        membership: [K, H, W], 1 in sum.
        mix: [K, C], probability that each group holds of each class, summed over pixels.
    """

    domain: str
    image: Image
    membership: NDArray[np.float32]
    mix: NDArray[np.float64]


def grouping_of(run: Run, stage: str | None = None) -> tuple[str, nn.Module]:
    """A train stage with a grouping network, the last unless named, and that network.

    Raises:
        SegueError: there is none, or it is not finished.
    """
    for name, settings in reversed(stages_with_groups(run).items()):
        if stage in (None, name):
            key, one = settings
            network = build(
                NETWORKS,
                {"kind": one.kind, **one.arguments},
                where=f"stages.{name}.networks.{key}",
                what="network",
                num_classes=run.classes.num_classes,
            )
            load_weights(network, run.work_dir / name / FOLDER / f"{key}.safetensors")
            return name, network.eval()
    fix = "give a run of a recipe with a grouping network, such as grouping-demo"
    raise SegueError("trained no grouping network", where=run.work_dir, fix=fix)


def stages_with_groups(run: Run) -> dict[str, tuple[str, NetworkSettings]]:
    """Train stages with the name and settings of their grouping network."""
    return {
        name: (key, one)
        for name, stage in run.trainings().items()
        for key, one in stage.networks.items()
        if one.kind in KINDS
    }


def measure(
    run: Run, network: nn.Module, stage: str, *, source: str, target: str, count: int
) -> list[Grouped]:
    """Groups of some images of both domains, by the model of the same stage; opens no label."""
    models = work_dir.load(run.work_dir / stage)
    size, found = models.models[0].size, []
    for domain, name in (("source", source), ("target", target)):
        for _, image in images(run.dataset(name), count, size):
            of = probabilities(models, image)
            membership = member(network, of)
            mix = torch.einsum("khw,chw->kc", membership.double(), of.double())
            found.append(Grouped(domain, image, membership.numpy(), mix.numpy()))
    return found


def member(network: nn.Module, of: Tensor) -> Tensor:
    """H [K, H, W] of probabilities [C, H, W]."""
    with torch.no_grad():
        whole: Tensor = network(of[None])[0].float()
    return whole


def draw(found: Sequence[Grouped], space: LabelSpace) -> Figure:
    """An image in each row and a map for each group: the darker, the more the pixel is in it."""
    with mpl.rc_context(STYLE):
        groups = len(found[0].membership)
        mix = np.sum([one.mix for one in found], axis=0)
        share = 100 * mix.sum(1) / mix.sum()
        titles = [
            f"k = {k + 1}\n{space.classes[int(mix[k].argmax())]}\n{share[k]:.0f} %"
            for k in range(groups)
        ]
        colours = [OKABE_ITO[k % len(OKABE_ITO)] for k in range(groups)]
        maps = [LinearSegmentedColormap.from_list("", ["white", colour]) for colour in colours]
        width = WIDTH * max(1.0, (1 + groups) / 6)
        height = height_of(found[0].image, 1 + groups, width - 0.3)
        size = (width, 0.75 + len(found) * (height + 0.08))
        figure = Figure(figsize=size, layout="constrained")
        pictures = [
            [
                one.image,
                *(
                    (255 * maps[k](np.clip(one.membership[k], 0, 1))[..., :3]).astype(np.uint8)
                    for k in range(groups)
                ),
            ]
            for one in found
        ]
        rows = [one.domain for one in found]
        tile(figure, pictures, columns=["image", *titles], rows=rows)
        for axes in figure.axes:
            axes.title.set_fontsize(9)
            axes.spines[:].set(visible=True, color="#bbbbbb", linewidth=0.5)
    return figure


def run(
    work_dir: Path, output: Path, *, source: str, target: str, count: int, console: Console
) -> list[Grouped]:
    """Draws the map of every group of a run's last grouping network.

    Cross-domain grouping (AAAI 2021), figure 3.

    Raises:
        SegueError: the run has no grouping network.
    """
    one = runs_of([work_dir])[0]
    stage, network = grouping_of(one)
    found = measure(one, network, stage, source=source, target=target, count=count)
    rows: list[dict[str, object]] = []
    for domain in ("source", "target"):
        mix = np.sum([each.mix for each in found if each.domain == domain], axis=0)
        for k, held in enumerate(mix):
            rows += [
                {
                    "domain": domain, "group": k + 1, "share": float(held.sum() / mix.sum()),
                    "class": name, "share_of_group": float(held[c] / held.sum()),
                }
                for c, name in enumerate(one.classes.classes)
            ]  # fmt: skip
    tell(leave(output, NAME, draw(found, one.classes), rows), console)
    return found
