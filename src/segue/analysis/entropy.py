"""How sure are runs of what they predict, where in an image, and for which classes?"""

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

from segue.analysis.samples import entropy, images, probabilities, spread
from segue.datasets import Dataset
from segue.figures.figure import MARKERS, OKABE_ITO, STYLE, WIDTH, leave, tell
from segue.figures.tiles import GREY, Picture, halves, height_of, name_classes, tile
from segue.label_space import LabelSpace
from segue.runtime.progress import Meter
from segue.work_dir import Run, runs_of

NAME = "entropy"


@dataclass(frozen=True)
class Sureness:
    """A run's entropy, 0 to 1.

    Args:
        run: its name.
        pixels: [C] predicted as each class.
        total: [C] their entropy, summed.
        maps: of the shown images, [H, W].
    """

    run: str
    pixels: NDArray[np.int64]
    total: NDArray[np.float64]
    maps: list[NDArray[np.float32]]

    @property
    def overall(self) -> float:
        """Mean over all pixels."""
        return float(self.total.sum() / self.pixels.sum())

    def of(self, member: int) -> float | None:
        """Mean over the pixels predicted as a class."""
        pixels = int(self.pixels[member])
        return float(self.total[member]) / pixels if pixels else None


def measure(run: Run, dataset: Dataset, *, count: int, shown: int, meter: Meter) -> Sureness:
    """Entropy of a run's predictions on some images, by predicted class; needs no label."""
    models = run.models()
    classes = models.label_space.num_classes
    pixels, total = np.zeros(classes, np.int64), np.zeros(classes)
    kept = spread(min(count, len(dataset)), shown)
    maps = []
    for place, (_, image) in enumerate(
        images(dataset.read_by(models.range), count, models.models[0].size)
    ):
        found = probabilities(models, image)
        unsure, label = entropy(found), found.argmax(0).flatten()
        pixels += torch.bincount(label, minlength=classes).numpy()
        weights = unsure.flatten().double()
        total += torch.bincount(label, weights=weights, minlength=classes).numpy()
        if place in kept:
            maps.append(unsure.numpy())
        meter.advance(place + 1)
    return Sureness(run.name, pixels, total, maps)


def draw(
    found: Sequence[Sureness], shown: Sequence[NDArray[np.uint8]], space: LabelSpace
) -> Figure:
    """Images with each run's map beside them, and below the mean for each predicted class."""
    with mpl.rc_context(STYLE):
        columns = 1 + len(found)
        members = [k for k in range(space.num_classes) if any(one.pixels[k] for one in found)]
        upper = 0.5 + len(shown) * (height_of(shown[0], columns, WIDTH - 0.8) + 0.05)
        lower = 0.9 + 0.26 * len(members)
        figure = Figure(figsize=(WIDTH, upper + lower), layout="constrained")
        above, below = halves(figure, upper, lower)
        maps: list[list[Picture]] = [
            [image, *(one.maps[place] for one in found)] for place, image in enumerate(shown)
        ]
        mapped = tile(above, maps, columns=["image", *(one.run for one in found)])
        assert mapped is not None
        bar = above.colorbar(mapped, ax=above.axes, shrink=0.8, aspect=30, pad=0.02)
        bar.set_ticks([0, 1], labels=["sure", "a guess"])
        axes = below.subplots()
        for number, one in enumerate(found):
            pairs = [(value, place) for place, k in enumerate(members) if (value := one.of(k))]
            axes.plot(
                [value for value, _ in pairs], [place for _, place in pairs],
                MARKERS[number % len(MARKERS)], color=OKABE_ITO[number % len(OKABE_ITO)],
                markersize=7, label=f"{one.run}, {one.overall:.2f} over all", clip_on=False,
            )  # fmt: skip
        name_classes(axes, space, members)
        axes.set(xlim=(0, None), xlabel="mean entropy of the pixels predicted so")
        axes.grid(axis="y", color=GREY, alpha=0.25)
        axes.spines["left"].set_visible(False)
        below.legend(loc="outside lower center", ncols=1 if len(found) < 2 else 2)
    return figure


def run(
    work_dirs: Sequence[Path],
    output: Path,
    *,
    data: str | None,
    count: int,
    shown: int,
    console: Console,
) -> list[Sureness]:
    """Compares runs on the same images.

    Local alignment (ACCV 2020), figure 6. `data` is a dataset of the first run's recipe; unless
    given, what that run is scored on. No label is opened.

    Raises:
        SegueError: a folder holds no finished run, or the dataset no images.
    """
    runs = runs_of(work_dirs)
    dataset = runs[0].dataset(data or runs[0].looked_at)
    found = []
    for one in runs:
        meter = Meter(console, f"{NAME}, {one.name}", min(count, len(dataset)), "img")
        meter.start()
        found.append(measure(one, dataset, count=count, shown=shown, meter=meter))
        meter.stop()
    space = runs[0].classes
    size = runs[0].models().models[0].size
    measured = spread(len(dataset), count)
    chosen = [measured[place] for place in spread(len(measured), shown)]
    figure = draw(found, [dataset.image(index, size) for index in chosen], space)
    paths = leave(output, NAME, figure, _rows(found, space))
    for sure in found:
        console.print(f"{sure.run}: mean entropy {sure.overall:.3f}", highlight=False)
    tell(paths, console)
    return found


def _rows(found: Sequence[Sureness], space: LabelSpace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for one in found:
        every = {"run": one.run, "class": "all", "pixels": int(one.pixels.sum())}
        rows.append({**every, "mean_entropy": one.overall})
        for k, name in enumerate(space.classes):
            line = {"run": one.run, "class": name, "pixels": int(one.pixels[k])}
            rows.append({**line, "mean_entropy": one.of(k)})
    return rows
