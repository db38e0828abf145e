"""Checks of a recipe that need the tables of parts: arguments, and names of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.datasets import DATASETS
from segue.datasets.augmentation import AUGMENTATIONS
from segue.datasets.depth import KEY as RANGE
from segue.datasets.depth import Range
from segue.errors import SegueError
from segue.losses import LOSSES
from segue.models.grouping_fit import GROUPINGS
from segue.models.table import NETWORKS
from segue.parts import arguments, build, choose, construct, split_kind
from segue.pseudo_labels import RULES
from segue.recipe.expand import refuse_unknown
from segue.recipe.schema import (
    CentresStage,
    Drawn,
    EvaluateStage,
    GroupsStage,
    Part,
    PseudoLabelStage,
    TrainStage,
    TranslateStage,
)
from segue.training.optimisers import OPTIMISERS, SCHEDULES
from segue.translation import TRANSLATIONS
from segue.views import VIEWS

if TYPE_CHECKING:
    from segue.recipe.recipe import Recipe

LONGEST_NAME = 100


def check_parts(recipe: Recipe) -> None:
    """Checks what pydantic cannot see: arguments of parts, and names of each other."""
    refuse_path(recipe.name, "name")
    for name in recipe.ablations:
        refuse_path(name, "ablations")
    space = recipe.classes()
    for protocol in recipe.protocols:
        space.protocol(protocol)
    for name, settings in recipe.data.items():
        kind, rest = split_kind(settings, where=f"data.{name}")
        # Every kind of dataset has it, those of plugins too.
        Range.from_settings(rest.pop(RANGE, None), f"data.{name}.{RANGE}")
        make = choose(DATASETS, kind, where=f"data.{name}.kind", what="dataset")
        arguments(make, rest, where=f"data.{name}", given=("label_space", "with_labels"))
    for name, stage in recipe.stages.items():
        refuse_path(name, "stages")
        if name in recipe.data:
            fix = "give one of them another name"
            raise SegueError("is a dataset and a stage", where=f"stages.{name}", fix=fix)
        before = _Before(recipe, name, f"stages.{name}")
        match stage:
            case TrainStage():
                _check_train(before, stage)
            case EvaluateStage():
                before.data(stage.data, "data")
                before.models(stage.models, "models")
            case TranslateStage():
                before.data(stage.data, "data")
                before.data(stage.towards, "towards")
                _check_part(TRANSLATIONS, stage.by, f"{before.where}.by", "translation", "work_dir")
                before.loaded(stage.by, "by")
            case PseudoLabelStage():
                before.data(stage.data, "data")
                before.models(stage.models, "models")
                build(RULES, stage.rule, where=f"{before.where}.rule", what="rule")
                if stage.measure_on is not None:
                    before.data(stage.measure_on, "measure_on")
            case CentresStage():
                drawn = _check_drawn(before, stage)
                refuse_unknown(stage.view, drawn, f"{before.where}.view", "view")
                before.models([stage.model], "model")
            case GroupsStage():
                _check_drawn(before, stage)
                before.models([stage.model], "model")
                _check_part(GROUPINGS, stage.by, f"{before.where}.by", "grouping", "groups")


@dataclass(frozen=True)
class _Before:
    """What a stage may name: datasets, and the stages before it."""

    recipe: Recipe
    name: str
    where: str

    def stages(self, *kinds: type) -> list[str]:
        """Names of earlier stages of these kinds."""
        names = list(self.recipe.stages)
        earlier = names[: names.index(self.name)]
        return [one for one in earlier if isinstance(self.recipe.stages[one], kinds)]

    def data(self, name: str, key: str) -> None:
        """Refuses what is no dataset and no earlier stage that makes one."""
        known = [*self.recipe.data, *self.stages(TranslateStage, PseudoLabelStage)]
        refuse_unknown(name, known, f"{self.where}.{key}", "dataset")

    def models(self, names: Sequence[str], key: str) -> None:
        """Refuses what is no earlier train stage."""
        known = self.stages(TrainStage)
        for name in names:
            refuse_unknown(name, known, f"{self.where}.{key}", "earlier train stage")

    def loaded(self, part: Part, key: str) -> None:
        """Refuses a `load_from` that is meant as an earlier stage and is none."""
        source = part.get("load_from") if isinstance(part, dict) else None
        if source is None:
            return
        stage, earlier = str(source).partition("/")[0], self.stages(object)
        path = Path(source)
        # A path may be there only on the machine that trains.
        if stage in self.recipe.stages or not (path.suffix or "/" in source or _is_there(path)):
            where = f"{self.where}.{key}.load_from"
            refuse_unknown(stage, earlier, where, "earlier stage")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name that is too long
        return False


def refuse_path(name: str, where: str) -> None:
    """Refuses a name that could lead out of the folder in which a run writes under it.

    Raises:
        SegueError: it is empty, too long, `.` or `..`, or has signs that part or steer.

    Example:
        >>> refuse_path("../../x", "stages")
        Traceback (most recent call last):
        segue.errors.SegueError: stages: '../../x' names a folder and will not do; use letters, \
digits, _ and -
    """
    apart = any(sign in "/\\:" or not sign.isprintable() for sign in name)
    if apart or name in ("", ".", "..") or len(name) > LONGEST_NAME:
        shown = name if len(name) <= LONGEST_NAME else f"{name[:20]}..."
        fix = "use letters, digits, _ and -"
        raise SegueError(f"{shown!r} names a folder and will not do", where=where, fix=fix)


def _check_drawn(before: _Before, stage: Drawn) -> list[str]:
    """Checks what a stage draws and the views that it makes; returns the names of both."""
    drawn = {"source": stage.source} | ({"target": stage.target} if stage.target else {})
    for role, settings in drawn.items():
        before.data(settings.data, f"{role}.data")
        for index, part in enumerate(settings.augment):
            where = f"{before.where}.{role}.augment.{index}"
            _check_part(AUGMENTATIONS, part, where, "augmentation")
    names = list(drawn)
    views = {} if isinstance(stage, GroupsStage) else stage.views
    for name, view in views.items():
        where = f"{before.where}.views.{name}"
        make = choose(VIEWS, view.kind, where=f"{where}.kind", what="view")
        checked = arguments(make, view.arguments, where=where)
        made = construct(make, checked, where=where)
        seen = {getattr(made, key) for key in ("of", "towards") if hasattr(made, key)}
        for other in sorted({*seen, *made.parents}):
            refuse_unknown(other, [*names, *views], where, "view")
        names.append(name)
    return names


def _check_train(before: _Before, stage: TrainStage) -> None:
    drawn, where = _check_drawn(before, stage), before.where
    for name, network in stage.networks.items():
        path = f"{where}.networks.{name}"
        refuse_path(name, f"{where}.networks")
        make = choose(NETWORKS, network.kind, where=f"{path}.kind", what="network")
        arguments(make, network.arguments, where=path, given=("num_classes",))
        if network.optimiser is not None:
            _check_part(OPTIMISERS, network.optimiser, f"{path}.optimiser", "optimiser", "module")
        _check_part(SCHEDULES, network.schedule, f"{path}.schedule", "schedule", "iterations")
        before.loaded({"load_from": network.load_from}, f"networks.{name}")
        if before.recipe.compile and network.checkpointing:
            # torch.compile cannot look into what restores statistics of batch norms.
            what = "does not go together with `compile`"
            raise SegueError(what, where=f"{path}.checkpointing", fix="leave one of them out")
    for name, term in stage.terms.items():
        path = f"{where}.terms.{name}"
        loss = choose(LOSSES, term.kind, where=f"{path}.kind", what="loss")
        built = construct(loss, arguments(loss, term.arguments, where=path), where=path)
        for side in built.values() if isinstance(built, dict) else (built,):
            for view in side.views:
                refuse_unknown(view, drawn, path, "view")
    for phase in stage.phases or ():
        for objective in phase.objectives:
            for network_name in objective.trains:
                refuse_unknown(network_name, stage.networks, f"{where}.phases", "network")


def _check_part(table: Mapping[str, Any], part: Part, where: str, what: str, *given: str) -> None:
    kind, rest = split_kind(part, where=where)
    arguments(choose(table, kind, where=where, what=what), rest, where=where, given=given)
