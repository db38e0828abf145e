"""From a checked recipe to live objects: datasets, networks, terms, phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from segue.datasets import DATASETS, Dataset
from segue.datasets import derived as made
from segue.datasets.augmentation import AUGMENTATIONS
from segue.datasets.cache import cached
from segue.datasets.depth import KEY as RANGE
from segue.datasets.depth import Range
from segue.datasets.loading import Role as Reading
from segue.datasets.sampling import seed_for
from segue.errors import SegueError
from segue.losses import LOSSES
from segue.models.checkpointing import checkpoint_blocks
from segue.models.table import NETWORKS
from segue.parts import build
from segue.recipe.recipe import (
    NetworkSettings,
    PhaseSettings,
    PseudoLabelStage,
    Recipe,
    Role,
    TermSettings,
    TrainStage,
    TranslateStage,
    ViewSettings,
)
from segue.recipe.schema import Drawn
from segue.training.networks import Network, Networks
from segue.training.optimisers import OPTIMISERS, SCHEDULES
from segue.training.phases import Objective, Phase, Weighted, usual_phases
from segue.training.step import View
from segue.views import VIEWS


def seed_of(recipe: Recipe, name: str) -> int:
    """The seed that decides what a stage draws: the recipe's own for the first stage that draws.

    Later stages draw by their names too, or every round would see the same few images again.
    """
    first = next(key for key, stage in recipe.stages.items() if isinstance(stage, Drawn))
    return recipe.seed if name == first else seed_for(recipe.seed, name)


def dataset(recipe: Recipe, name: str, *, labels: bool, work_dir: Path = Path()) -> Dataset:
    """A dataset of the recipe, or what a stage made of one; without labels no path is even made.

    Pseudo-labels are no labels of the dataset's own: they are read where `labels` is asked for.
    What stages make lies in `work_dir`.

    Raises:
        SegueError: files are missing or do not pair up.
    """
    match recipe.stages.get(name):
        case TranslateStage(data=base):
            whole = dataset(recipe, base, labels=labels, work_dir=work_dir)
            return made.translated(whole, work_dir / name)
        case PseudoLabelStage(data=base):
            bare = dataset(recipe, base, labels=False, work_dir=work_dir)
            return made.pseudo_labelled(bare, work_dir / name) if labels else bare
    settings = {key: value for key, value in recipe.data[name].items() if key != RANGE}
    files = build(
        DATASETS,
        settings,
        where=f"data.{name}",
        what="dataset",
        label_space=recipe.classes(),
        with_labels=labels,
    )
    files = replace(files, range=image_range(recipe, name))
    return files if recipe.cache is None else cached(files, Path(recipe.cache))


def image_range(recipe: Recipe, name: str) -> Range | None:
    """What is black and white in a dataset's images of more than 8 bits, also of what a stage made.

    Raises:
        SegueError: its `range` is not two numbers or percentiles.
    """
    stage = recipe.stages.get(name)
    if isinstance(stage, TranslateStage | PseudoLabelStage):
        return image_range(recipe, stage.data)
    return Range.from_settings(recipe.data[name].get(RANGE), f"data.{name}.{RANGE}")


def reading(recipe: Recipe, role: Role, *, labels: bool, work_dir: Path) -> Reading:
    """How a role's images are read and changed."""
    augment = [
        build(AUGMENTATIONS, part, where=f"{role.data}.augment.{index}", what="augmentation")
        for index, part in enumerate(role.augment)
    ]
    files = dataset(recipe, role.data, labels=labels, work_dir=work_dir)
    return Reading(files, role.size, labels, tuple(augment), role.share)


def readings(recipe: Recipe, stage: Drawn, work_dir: Path) -> dict[str, Reading]:
    """What a stage draws from: labels of the source; of the target only those that a stage made."""
    roles = {"source": reading(recipe, stage.source, labels=True, work_dir=work_dir)}
    if stage.target is not None:
        labels = pseudo_labelled(recipe, stage.target.data)
        roles["target"] = reading(recipe, stage.target, labels=labels, work_dir=work_dir)
    return roles


def pseudo_labelled(recipe: Recipe, name: str) -> bool:
    """Whether a dataset's labels are a stage's, and none of its own can be read by that name."""
    stage = recipe.stages.get(name)
    if isinstance(stage, TranslateStage):
        return pseudo_labelled(recipe, stage.data)
    return isinstance(stage, PseudoLabelStage)


def views(settings: Mapping[str, ViewSettings], *, where: str) -> dict[str, View]:
    """The views of a stage by name."""
    return {
        name: build(
            VIEWS, {"kind": view.kind, **view.arguments}, where=f"{where}.{name}", what="view"
        )
        for name, view in settings.items()
    }


def networks(recipe: Recipe, stage_name: str, stage: TrainStage) -> Networks:
    """Every network of a stage; initial values follow from the seed and its place among them."""
    table: dict[str, Network] = {}
    for position, (name, settings) in enumerate(stage.networks.items()):
        # One stream per network, so that adding one does not change how another begins.
        torch.manual_seed(recipe.seed * 1000 + position)
        table[name] = network(recipe, stage, settings, where=f"stages.{stage_name}.networks.{name}")
    return Networks(table)


def network(recipe: Recipe, stage: TrainStage, settings: NetworkSettings, *, where: str) -> Network:
    """One network with its optimiser and schedule."""
    module = build(
        NETWORKS,
        {"kind": settings.kind, **settings.arguments},
        where=where,
        what="network",
        num_classes=recipe.classes().num_classes,
    )
    if settings.checkpointing:
        checkpoint_blocks(module, where=f"{where}.checkpointing")
    if settings.optimiser is None:
        return Network(module.requires_grad_(False))
    optimiser = build(
        OPTIMISERS,
        settings.optimiser,
        where=f"{where}.optimiser",
        what="optimiser",
        module=module,
    )
    schedule = build(
        SCHEDULES,
        settings.schedule,
        where=f"{where}.schedule",
        what="schedule",
        iterations=stage.iterations,
    )
    return Network(module, optimiser, schedule, settings.clip)


def terms(settings: Mapping[str, TermSettings], *, where: str) -> list[Weighted]:
    """The weighted terms; of a loss with several sides the first takes the weight."""
    found = []
    for name, term in settings.items():
        part = {"kind": term.kind, **term.arguments}
        loss = build(LOSSES, part, where=f"{where}.{name}", what="loss")
        sides = list(loss.items()) if isinstance(loss, dict) else [("", loss)]
        first, *rest = sides
        found.append(Weighted(name, first[1], term.weight))
        found += [Weighted(f"{name}/{side}", one) for side, one in rest]
    return found


def phases(
    weighted: list[Weighted],
    settings: list[PhaseSettings] | None,
    views: Mapping[str, View],
    *,
    where: str,
) -> list[Phase]:
    """The phases that a recipe writes out, or the usual ones."""
    if settings is None:
        return usual_phases(weighted, views)
    by_name = {one.name: one for one in weighted}
    unknown = [
        name
        for phase in settings
        for objective in phase.objectives
        for name in objective.terms
        if name not in by_name
    ]
    if unknown:
        fix = f"there are: {', '.join(by_name)}"
        raise SegueError(f"no term is called {unknown[0]!r}", where=where, fix=fix)
    return [
        Phase(
            tuple(
                Objective(
                    tuple(objective.trains), tuple(by_name[name] for name in objective.terms), views
                )
                for objective in phase.objectives
            ),
            phase.repeat,
        )
        for phase in settings
    ]
