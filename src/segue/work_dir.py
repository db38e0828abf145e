"""A run on disk: its recipe, its models, what it measured, and the names of its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segue.datasets import Dataset
from segue.errors import SegueError
from segue.inference.evaluation import FILE, Evaluation
from segue.inference.model import FILE as MODEL
from segue.inference.model import Ensemble, read
from segue.label_space import LabelSpace
from segue.parts import choose
from segue.recipe import build as assembly
from segue.recipe import load as load_recipe
from segue.recipe.recipe import EvaluateStage, Recipe, TrainStage
from segue.runtime.processes import join
from segue.storage.whole import read_json, read_rows
from segue.training.tracker import METRICS, TIMING, WARNINGS


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
        return load(self.work_dir if stage is None else self.work_dir / stage, device)

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


def recipe_of(work_dir: Path) -> Recipe:
    """The recipe as it was resolved for a run.

    Raises:
        SegueError: the folder holds no run.
    """
    if not (work_dir / "recipe.yaml").is_file():
        raise SegueError("holds no run", where=work_dir, fix="give the work_dir of `segue run`")
    return load_recipe(work_dir / "recipe.yaml")


def evaluations(work_dir: Path) -> dict[str, Evaluation]:
    """The results of a run's evaluate stages, by stage."""
    stages = recipe_of(work_dir).stages
    return {
        name: Evaluation.read(work_dir / name / FILE)
        for name, stage in stages.items()
        if isinstance(stage, EvaluateStage)
    }


SECONDS = "seconds.json"


ENVIRONMENT = "environment.json"


def environment(work_dir: Path) -> dict[str, Any]:
    """What a run noted of the machine and itself; nothing where it noted nothing.

    Raises:
        SegueError: the file is damaged.
    """
    fix = "run the same command again, which writes it anew"
    return read_json(work_dir / ENVIRONMENT, fix=fix)


CONFIG = "config.json"  # of a folder of `segue export`


def load(path: str | Path, device: str | torch.device = "cpu") -> Ensemble:
    """The model of a work_dir, one of its train stages, an export, or a model.safetensors.

    Args:
        path: of a work_dir, what its last evaluate stage scores, or else its last train stage.
        device: where it is to run.

    Raises:
        SegueError: nothing is there yet, or the file is damaged.
    """
    return Ensemble([read(file, device) for file in files(Path(path))])


def files(path: Path) -> list[Path]:
    """The model files that `load` reads for a path.

    Raises:
        SegueError: nothing is there yet.
    """
    if path.is_file():
        return [path]
    if (path / MODEL).is_file():
        return [path / MODEL]
    if (path / CONFIG).is_file():
        return _exported(path)
    if not (path / "recipe.yaml").is_file():
        raise SegueError("holds no trained model", where=path, fix="give a work_dir of `segue run`")
    stages = load_recipe(path / "recipe.yaml").stages
    names = [name for name, stage in stages.items() if isinstance(stage, TrainStage)][-1:]
    for stage in stages.values():
        if isinstance(stage, EvaluateStage):
            names = stage.models
    absent = [name for name in names if not (path / name / MODEL).is_file()]
    if absent:
        fix = "finish it: run the same command again"
        raise SegueError(f"stage {absent[0]} is not finished", where=path, fix=fix)
    return [path / name / MODEL for name in names]


def _exported(folder: Path) -> list[Path]:
    try:
        told = json.loads((folder / CONFIG).read_text())
        # Names alone: a folder from elsewhere must not lead out of itself.
        found = [folder / Path(model["file"]).name for model in told["models"]]
    except (ValueError, LookupError, TypeError) as error:
        fix = "give a folder of `segue export`"
        raise SegueError("describes no model of Segue", where=folder / CONFIG, fix=fix) from error
    absent = [path for path in found if not path.is_file()]
    if absent or not found:
        raise SegueError("holds no trained model", where=folder, fix="export it again")
    return found


Point = tuple[float, float]


def trained(recipe: Recipe) -> dict[str, int]:
    """Iterations of each stage that trains a segmenter."""
    stages = {n: s for n, s in recipe.stages.items() if isinstance(s, TrainStage)}
    return {name: stage.iterations for name, stage in stages.items() if trains_segmenter(stage)}


def trains_segmenter(stage: TrainStage) -> bool:
    """Whether a stage trains a segmenter, and not what translates images alone."""
    segmenter = stage.networks.get("segmenter")
    return segmenter is not None and segmenter.optimiser is not None


def curve(work_dir: Path, metric: str) -> list[Point]:
    """A metric over the iterations of all stages that train a segmenter, one after the other."""
    points: list[Point] = []
    before = 0
    for name, length in trained(recipe_of(work_dir)).items():
        points += [
            (before + row["iteration"], row[metric])
            for row in _rows(work_dir / name / METRICS)
            if metric in row
        ]
        before += length
    return points


def metrics(work_dir: Path) -> list[str]:
    """The names of all that was measured while a segmenter was trained, sorted."""
    stages = trained(recipe_of(work_dir))
    return sorted({key for name in stages for row in _rows(work_dir / name / METRICS)
                   for key in row})  # fmt: skip


def warnings_of(work_dir: Path) -> list[str]:
    """What training warned of, stage by stage."""
    return [
        f"{name}, iteration {row['iteration']}: {row['warning']}"
        for name in trained(recipe_of(work_dir))
        for row in _rows(work_dir / name / WARNINGS)
    ]


def minutes_of(work_dir: Path) -> float:
    """How long training took, from the rates that it left."""
    seconds = 0.0
    for name in trained(recipe_of(work_dir)):
        before = 0.0
        for row in _rows(work_dir / name / TIMING):
            seconds += (row["iteration"] - before) / row["iterations_per_second"]
            before = row["iteration"]
    return seconds / 60


def cost_of(work_dir: Path, stage: str) -> dict[str, float]:
    """Seconds that a stage took when last begun, and `peak_bytes` of memory where it was noted."""
    told = read_json(work_dir / stage / SECONDS, fix="delete it: the page then says less of cost")
    return {key: told[key] for key in ("seconds", "peak_bytes") if key in told}


def _rows(path: Path) -> list[dict[str, float]]:
    return read_rows(path) if path.is_file() else []
