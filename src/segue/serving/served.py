"""The models behind the page, and what they say of several images at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segue.errors import SegueError
from segue.inference.model import FILE, Ensemble
from segue.label_space import LabelSpace

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Answer:
    """What the models say of an image.

    Args:
        after: train ids [H, W].
        before: those of the model that it is compared with, if any.
    """

    after: Pixels
    before: Pixels | None


@dataclass(frozen=True)
class Served:
    """The model that is shown, and one to compare it with; each is in memory once.

    Args:
        after: the model.
        name: what people call it.
        before: the model to compare it with.
        before_name: what people call that.

    Raises:
        SegueError: the two tell different classes apart, or read images by different ranges.
    """

    after: Ensemble
    name: str
    before: Ensemble | None = None
    before_name: str | None = None

    def __post_init__(self) -> None:
        if self.before is not None and self.before.label_space.classes != self.label_space.classes:
            fix = "compare models of one label space"
            raise SegueError("has other classes than the model", where="--before", fix=fix)
        if self.before is not None and self.before.range != self.after.range:
            fix = "compare models that were trained with one `range`"
            raise SegueError("reads deep images by another range", where="--before", fix=fix)

    @property
    def label_space(self) -> LabelSpace:
        """The classes."""
        return self.after.label_space

    def answers(self, images: Sequence[Pixels]) -> list[Answer]:
        """What the models say of RGB images [H, W, 3] of any sizes, each network run once."""
        after = labels_of(self.after, images)
        before = [None] * len(images) if self.before is None else labels_of(self.before, images)
        return [Answer(*both) for both in zip(after, before, strict=True)]


def title(path: str | Path) -> str:
    """What to call the model of a path: the end of it that tells runs apart.

    Example:
        >>> title("runs/carla/source-only/seed_0"), title("runs/my/train/model.safetensors")
        ('source-only/seed_0', 'my/train')
    """
    path = Path(path).resolve()
    folder = path.parent if path.name == FILE else path
    return "/".join(folder.parts[1:][-2:])


def shares(label: Pixels, space: LabelSpace) -> dict[str, float]:
    """The share of pixels by class name, absent classes left out."""
    counts = np.bincount(label.ravel(), minlength=space.num_classes)
    named = zip(space.classes, counts, strict=True)
    return {name: float(count) / label.size for name, count in named if count}


def labels_of(models: Ensemble, images: Sequence[Pixels]) -> list[Pixels]:
    """Train ids [H, W] for each RGB image [H, W, 3]."""
    return [label for label, _ in models.predict_all(images, confident=False)]
