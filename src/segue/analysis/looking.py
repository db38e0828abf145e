"""What analyses look at: runs by name, their images, and what their models say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue import assembly, model
from segue.datasets import Dataset
from segue.distributed import join
from segue.errors import SegueError
from segue.label_space import LabelSpace
from segue.model import Ensemble
from segue.recipe import EvaluateStage, Recipe, TrainStage
from segue.showing import recipe_of
from segue.tables import choose

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """A finished run and what figures call it."""

    name: str
    work_dir: Path
    recipe: Recipe

    @property
    def classes(self) -> LabelSpace:
        """The classes of its predictions."""
        return self.recipe.classes()

    def models(self, stage: str | None = None) -> Ensemble:
        """What its last evaluate stage scores, or what one train stage left.

        Raises:
            SegueError: it is not there.
        """
        device = join(self.recipe.device).device
        return model.load(self.work_dir if stage is None else self.work_dir / stage, device)

    def dataset(self, name: str, *, labels: bool = False) -> Dataset:
        """A dataset of its recipe, or one that a stage of it made.

        Raises:
            SegueError: there is none of that name, or it has no images.
        """
        recipe = self.recipe
        known = {**dict.fromkeys(recipe.data), **dict.fromkeys(made(recipe))}
        choose(known, name, where=str(self.work_dir), what="dataset")
        found = assembly.dataset(recipe, name, labels=labels, work_dir=self.work_dir)
        if not len(found):
            raise SegueError("has no images", where=name, fix="add some")
        return found

    @property
    def looked_at(self) -> str:
        """The target images to look at unless told: those scored, else those trained on."""
        for stage in reversed(self.recipe.stages.values()):
            if isinstance(stage, EvaluateStage):
                return stage.data
        for stage in reversed(self.recipe.stages.values()):
            if isinstance(stage, TrainStage) and stage.target is not None:
                return stage.target.data
        raise SegueError("knows no target", where=self.work_dir, fix="name a dataset with --data")

    def trainings(self) -> dict[str, TrainStage]:
        """Its train stages by name."""
        stages = self.recipe.stages.items()
        return {name: stage for name, stage in stages if isinstance(stage, TrainStage)}


def made(recipe: Recipe) -> list[str]:
    """The stages of a recipe that are datasets."""
    kinds = ("translate", "pseudo_label")
    return [name for name, stage in recipe.stages.items() if stage.kind in kinds]


def runs_of(work_dirs: Sequence[Path]) -> list[Run]:
    """Runs of one label space, named by what their paths do not have in common.

    Raises:
        SegueError: a folder holds no run, or the runs know different classes.
    """
    recipes = [recipe_of(work_dir) for work_dir in work_dirs]
    for work_dir, recipe in zip(work_dirs, recipes, strict=True):
        if recipe.classes().classes != recipes[0].classes().classes:
            fix = "compare runs of one label space"
            raise SegueError("knows other classes than the first run", where=work_dir, fix=fix)
    names = [recipes[0].name] if len(work_dirs) == 1 else names_of(work_dirs)
    parts = zip(names, work_dirs, recipes, strict=True)
    return [Run(*part) for part in parts]


def names_of(work_dirs: Sequence[Path]) -> list[str]:
    """What tells paths apart: the parts that are not in all of them.

    Example:
        >>> names_of([Path("runs/fda/seed_0"), Path("runs/bdl/seed_0")])
        ['fda', 'bdl']
        >>> names_of([Path("runs/fda"), Path("runs/fda-2/a")])
        ['fda', 'fda-2/a']
    """
    parts = [work_dir.parts for work_dir in work_dirs]
    shared = set(parts[0]).intersection(*parts[1:])
    return [
        "/".join(part for part in one if part not in shared) or work_dir.name
        for one, work_dir in zip(parts, work_dirs, strict=True)
    ]


def spread(count: int, wanted: int) -> list[int]:
    """At most so many indices, evenly over all: neighbours in a video look the same.

    Example:
        >>> spread(10, 3), spread(2, 3)
        ([1, 5, 8], [0, 1])
    """
    few = min(count, wanted)
    return [(2 * place + 1) * count // (2 * few) for place in range(few)]


def probabilities(models: Ensemble, image: Image) -> Tensor:
    """Mean probabilities [C, H, W] of an image [H, W, 3], at the size that the models look at."""
    width, height = models.models[0].size
    every = [one.probabilities(image, (height, width)) for one in models.models]
    return torch.stack(every).mean(0)


def entropy(of: Tensor) -> Tensor:
    """Entropy [H, W] of probabilities [C, H, W], 0 to 1: divided by that of a uniform guess.

    Example:
        >>> entropy(torch.tensor([[[0.5, 1.0]], [[0.5, 0.0]]])).tolist()
        [[1.0, 0.0]]
    """
    unsure: Tensor = torch.special.entr(of).sum(0)
    return unsure / float(np.log(of.shape[0]))


def images(dataset: Dataset, wanted: int, size: tuple[int, int]) -> Iterator[tuple[int, Image]]:
    """Some images with their indices, at `size` (width, height)."""
    for index in spread(len(dataset), wanted):
        yield index, dataset.image(index, size)
