"""Looks at all that a recipe needs before a GPU hour is spent on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rich.console import Console

from segue.checking.data import Use, check_cache, check_data, uses_of
from segue.checking.report import Report
from segue.checking.stages import check_evaluate, check_models, check_train, describe
from segue.datasets.inspection import Inspection
from segue.errors import SegueError
from segue.recipe.recipe import (
    CentresStage,
    EvaluateStage,
    GroupsStage,
    PseudoLabelStage,
    Recipe,
    TrainStage,
)
from segue.runtime import processes as distributed
from segue.runtime.processes import World
from segue.training.networks import Networks

__all__ = ["Report", "check"]


def check(recipe: Recipe, *, sample: int | None = None, console: Console | None = None) -> Report:
    """Looks at device, files, labels, weights, networks, terms and protocols of a recipe.

    Nothing is trained, written or downloaded, and no label of a dataset that only serves as target
    is looked for. It goes on after a problem, so that one look names all of them.

    Args:
        recipe: what is to be run.
        sample: how many images of each dataset to decode, evenly spread; None: all.
        console: where to show progress; None keeps silent.
    """
    report = Report(recipe.classes())
    world = _check_device(recipe, report)
    found: dict[Use, Inspection] = {}
    for use, roles in uses_of(recipe).items():
        inspection = check_data(recipe, use, roles, report, sample, console)
        if inspection is not None:
            found[use] = inspection
    check_cache(recipe, report)
    lengths = {use.data: inspection.total for use, inspection in found.items()}
    trained: dict[str, Networks] = {}
    for name, stage in recipe.stages.items():
        if isinstance(stage, TrainStage):
            trained[name] = check_train(recipe, name, stage, trained, lengths, world, report)
        elif isinstance(stage, EvaluateStage | PseudoLabelStage):
            check_models(recipe, name, stage.models, report)
        elif isinstance(stage, CentresStage | GroupsStage):
            check_models(recipe, name, [stage.model], report)
        if isinstance(stage, EvaluateStage):
            check_evaluate(name, stage, trained, report)
        elif not isinstance(stage, TrainStage):
            describe(name, stage, report)
    _check_protocols(recipe, found, report)
    # What several stages share is one thing to mend.
    report.problems = list(dict.fromkeys(report.problems))
    report.warnings = list(dict.fromkeys(report.warnings))
    return report


def _check_device(recipe: Recipe, report: Report) -> World:
    try:
        world = distributed.join(recipe.device)
    except SegueError as error:
        report.problems.append(str(error))
        return World()
    finally:
        distributed.leave()
    name = str(world.device)
    if world.device.type == "cuda":
        card = torch.cuda.get_device_properties(world.device)
        name += f", {card.name}, {card.total_memory / 2**30:.0f} GiB"
    processes = f", {world.size} processes" if world.size > 1 else ""
    report.sections.append((recipe.name, (("device", f"{name}, {recipe.precision}{processes}"),)))
    return world


def _check_protocols(recipe: Recipe, found: Mapping[Use, Inspection], report: Report) -> None:
    """Which classes are averaged, and whether the labels of source and validation show them."""
    space = recipe.classes()
    every = set(range(space.num_classes))
    rows = []
    for protocol in recipe.shown_protocols():
        chosen = set(space.protocol(protocol))
        text = f"all {len(every)} classes"
        if chosen != every:
            names = ", ".join(space.classes[index] for index in sorted(every - chosen))
            text = f"{len(chosen)} of {len(every)} classes, without {names}"
        rows.append((protocol, text))
    scored = {index for name in recipe.shown_protocols() for index in space.protocol(name)}
    for use, inspection in found.items():
        if not inspection.pixels.any():
            continue
        absent = [index for index in sorted(every) if not inspection.images[index]]
        looked = f" of {inspection.inspected} images" * (inspection.inspected < inspection.total)
        if absent:
            names = ", ".join(space.classes[index] for index in absent)
            rows.append((f"not in {use.data}", names))
        missed = ", ".join(space.classes[index] for index in absent if index in scored)
        if missed:
            meaning = "scored 0 where predicted" if use.scored else "scored, but never learnt"
            report.warnings.append(
                f"data.{use.data}: no label{looked} shows {missed}: {meaning}; choose `protocols` "
                "without them, or other data"
            )
    report.sections.append(("mIoU protocols", tuple(dict.fromkeys(rows))))
