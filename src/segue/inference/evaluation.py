"""How right a model is on labelled images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from segue.datasets import Dataset
from segue.errors import SegueError
from segue.inference.confusion_matrix import ConfusionMatrix
from segue.inference.model import Ensemble
from segue.label_space import LabelSpace
from segue.runtime.prefetch import ahead
from segue.runtime.processes import World, gather
from segue.runtime.progress import Meter
from segue.storage.whole import write_whole

FILE = "evaluation.json"


ALONE = World()


@dataclass(frozen=True)
class Evaluation:
    """How a model did on a labelled set.

    Args:
        classes: their names.
        confusion: [C, C] pixels, rows labels, columns predictions.
        protocols: train ids by protocol, the headline first.
        images: how many images were scored.
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    protocols: dict[str, tuple[int, ...]]
    images: int

    @property
    def matrix(self) -> ConfusionMatrix:
        """The counts as a confusion matrix."""
        matrix = ConfusionMatrix(len(self.classes))
        matrix.counts += self.confusion
        return matrix

    @property
    def iou(self) -> dict[str, float]:
        """IoU by class name, NaN where absent from labels and predictions."""
        values = self.matrix.iou().tolist()
        return dict(zip(self.classes, values, strict=True))

    @property
    def miou(self) -> dict[str, float]:
        """Mean IoU by protocol, the headline first."""
        colours = tuple((0, 0, 0) for _ in self.classes)
        space = LabelSpace("evaluated", self.classes, colours, self.protocols)
        return {name: self.matrix.miou(space, name) for name in self.protocols}

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        told = {
            "format": 1,
            "miou": {name: None if np.isnan(v) else v for name, v in self.miou.items()},
            "iou": {name: None if np.isnan(v) else v for name, v in self.iou.items()},
            "images": self.images,
            "protocols": self.protocols,
            "classes": self.classes,
            "confusion": self.confusion.tolist(),
        }
        text = json.dumps(told, indent=1)
        write_whole(path, lambda file: file.write(text.encode()))

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Reads what `save` wrote.

        Raises:
            SegueError: there is none, or it is damaged.
        """
        if not path.is_file():
            raise SegueError("no evaluation yet", where=path, fix="run `segue evaluate` first")
        try:
            told = json.loads(path.read_text())
            protocols = {name: tuple(ids) for name, ids in told["protocols"].items()}
            square = (len(told["classes"]),) * 2
            counts = np.array(told["confusion"], np.int64).reshape(square)
            return cls(tuple(told["classes"]), counts, protocols, told["images"])
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            fix = "`segue evaluate` of its work_dir makes it anew"
            raise SegueError("is damaged", where=path, fix=fix) from error


def evaluate(
    models: Ensemble,
    dataset: Dataset,
    protocols: list[str],
    *,
    world: World = ALONE,
    console: Console | None = None,
    title: str = "evaluate",
) -> Evaluation:
    """Scores a model on a labelled dataset, each image at the size of its label.

    Process r of n scores images r, r + n, r + 2 n, ...; their counts of pixels add up to the same
    integers as one process counts, and every process returns the whole.

    Raises:
        SegueError: the label spaces differ, or a file is not as it should be.
    """
    space = dataset.label_space
    if space.classes != models.label_space.classes:
        fix = "evaluate it on data of its own label space"
        raise SegueError("the model was trained for other classes", where=dataset.name, fix=fix)
    dataset = dataset.read_by(models.range)
    matrix = ConfusionMatrix(space.num_classes)
    mine = range(world.rank, len(dataset), world.size)
    meter = Meter(console if world.leads else None, title, len(dataset), "img")
    meter.start()
    try:
        for done, (image, label) in enumerate(pairs(dataset, mine), 1):
            matrix.add(label, models.predict(image))
            meter.advance(min(done * world.size, len(dataset)))
    finally:
        meter.stop()
    counts = np.stack(gather(matrix.counts, world)).sum(0)
    chosen = {name: space.protocol(name) for name in protocols}
    return Evaluation(space.classes, counts, chosen, len(dataset))


def pairs(
    dataset: Dataset, indices: range
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Some images with labels in order, the next being read while one is in use."""

    def read(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return dataset.image(index), dataset.label(index)

    yield from ahead(read, indices)
