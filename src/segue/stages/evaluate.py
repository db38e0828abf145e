"""The stage that scores: one confusion matrix at the labels' own size, means by protocol."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from segue.inference import model
from segue.inference.evaluation import FILE, evaluate
from segue.inference.model import Ensemble
from segue.recipe import build as assembly
from segue.recipe.recipe import EvaluateStage, PseudoLabelStage, Recipe
from segue.runtime.processes import World


def run(
    recipe: Recipe,
    name: str,
    stage: EvaluateStage,
    work_dir: Path,
    *,
    world: World,
    console: Console | None,
) -> None:
    """Scores the stage's models on its dataset and writes `evaluation.json`."""
    models = load_models(stage, work_dir, device=str(world.device))
    dataset = assembly.dataset(recipe, stage.data, labels=True, work_dir=work_dir)
    result = evaluate(models, dataset, recipe.shown_protocols(), world=world, console=console)
    if world.leads:
        result.save(work_dir / name / FILE)


def load_models(
    stage: EvaluateStage | PseudoLabelStage, work_dir: Path, *, device: str
) -> Ensemble:
    """The models that a stage averages, looking at images of the stage's size."""
    models = [model.read(work_dir / name / model.FILE, device) for name in stage.models]
    for one in models:
        one.size, one.heads = stage.size, stage.heads
    return Ensemble(models)
