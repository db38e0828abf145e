"""Recipes: checked settings of what is run. Beyond this door no setting is text.

A recipe is an ordered table of stages over named datasets. `base:` extends another recipe;
`key=value` on the command line sets what it says. Everything is checked here, before anything
runs: keys, values, the arguments of every part, and that parts name each other rightly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from segue.datasets import DATASETS
from segue.datasets.augmentation import AUGMENTATIONS
from segue.label_space import LABEL_SPACES, LabelSpace
from segue.losses import LOSSES
from segue.networks import NETWORKS, OPTIMISERS, SCHEDULES
from segue.recipe_files import Dumper, refuse_unknown, resolve
from segue.tables import arguments, choose, parse, split_kind

Part = str | dict[str, Any]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Paper(_Settings):
    """Where a recipe comes from and what was reported for it, mIoU in percent by protocol."""

    title: str
    venue: str
    where: str = ""
    reported: dict[str, float] = {}


class OwnLabelSpace(_Settings):
    """A label space of one's own."""

    name: str = "own"
    classes: list[str]
    colours: list[tuple[int, int, int]] | None = None
    protocols: dict[str, list[str]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        # YAML reads `16:` as a number.
        if isinstance(value, dict) and isinstance(value.get("protocols"), dict):
            named = {str(key): members for key, members in value["protocols"].items()}
            value = {**value, "protocols": named}
        return value


class Role(_Settings):
    """A dataset by name, the size (width, height) its images get, and what then happens to them."""

    data: str
    size: tuple[PositiveInt, PositiveInt]
    augment: list[Part] = []


class NetworkSettings(BaseModel):
    """A network: its kind with that kind's arguments, what trains it, at what rates."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    kind: str
    optimiser: Part | None = None
    schedule: Part = "poly"
    clip: float | None = Field(default=None, gt=0)

    @property
    def arguments(self) -> dict[str, Any]:
        """What goes to the builder of its kind."""
        return dict(self.model_extra or {})


class TermSettings(BaseModel):
    """A term of the loss: its kind with that kind's arguments, and its weight."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    kind: str
    weight: float = 1.0

    @property
    def arguments(self) -> dict[str, Any]:
        """What goes to the builder of its kind."""
        return dict(self.model_extra or {})


class ObjectiveSettings(_Settings):
    """Terms by name and the networks that they train."""

    trains: list[str]
    terms: list[str]


class PhaseSettings(_Settings):
    """Objectives that share an update, and how often in each iteration."""

    objectives: list[ObjectiveSettings]
    repeat: PositiveInt = 1


class TrainStage(_Settings):
    """Trains networks on terms; leaves checkpoints, metrics and the segmenter's weights."""

    kind: Literal["train"]
    iterations: PositiveInt
    batch_size: PositiveInt = 1
    accumulate: PositiveInt = 1
    source: Role
    target: Role | None = None
    networks: dict[str, NetworkSettings]
    terms: dict[str, TermSettings]
    phases: list[PhaseSettings] | None = None
    load_from: str | None = None
    checkpoint_every: PositiveInt = 5000
    log_every: PositiveInt = 10


class EvaluateStage(_Settings):
    """Scores what train stages left; several models are one, their probabilities averaged."""

    kind: Literal["evaluate"]
    data: str
    size: tuple[PositiveInt, PositiveInt]
    models: list[str]
    heads: dict[str, float] = {"main": 1.0}


Stage = Annotated[TrainStage | EvaluateStage, Field(discriminator="kind")]


class Recipe(_Settings):
    """What is run, as checked settings.

    Example:
        >>> recipe = load("source-only-demo", ["seed=3", "stages.train.iterations=20"])
        >>> recipe.seed, list(recipe.stages), recipe.stages["train"].iterations
        (3, ['train', 'evaluate'], 20)
    """

    format: Literal[1] = 1
    name: str
    title: str = ""
    paper: Paper | None = None
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    workers: int | None = Field(default=None, ge=0)
    label_space: str | OwnLabelSpace
    protocols: list[str] = []
    data: dict[str, dict[str, Any]]
    stages: dict[str, Stage]

    @model_validator(mode="before")
    @classmethod
    def _protocols_are_text(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("protocols"), list):
            value = {**value, "protocols": [str(name) for name in value["protocols"]]}
        return value

    def classes(self) -> LabelSpace:
        """The label space that the recipe names or describes."""
        if isinstance(self.label_space, str):
            return choose(LABEL_SPACES, self.label_space, where="label_space", what="label space")
        own = self.label_space
        return LabelSpace.from_settings(own.name, own.classes, own.colours, own.protocols)

    def shown_protocols(self) -> list[str]:
        """The protocols to print, the headline first: those named, or all there are."""
        return self.protocols or list(self.classes().protocols)

    def as_yaml(self) -> str:
        """The recipe as resolved, in YAML that loads again."""
        plain = self.model_dump(mode="json", exclude_none=True)
        # To a dataset null says something: `labels: null` is not the default.
        plain["data"] = self.data
        return yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)

    def fingerprint(self, stage: str) -> str:
        """A digest of everything that decides what a stage computes."""
        upto = list(self.stages)[: list(self.stages).index(stage) + 1]
        plain = self.model_dump(mode="json")
        told = {
            "stages": {name: plain["stages"][name] for name in upto},
            **{key: plain[key] for key in ("seed", "precision", "label_space", "data")},
        }
        if plain["stages"][stage]["kind"] == "evaluate":
            told["protocols"] = self.shown_protocols()
        # How often state is saved does not change it.
        for settings in told["stages"].values():
            settings.pop("checkpoint_every", None)
        text = json.dumps(told, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def load(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by the name of a shipped one or the path of a file, with `key=value` overrides.

    Raises:
        SegueError: it does not exist, is not YAML, or anything in it will not do; the message
            names the key and what would do.

    Example:
        >>> load("source-only-demo").stages["train"].kind
        'train'
    """
    recipe = parse(Recipe, resolve(name, overrides), where="")
    _check_parts(recipe)
    return recipe


def _check_parts(recipe: Recipe) -> None:
    """Checks what pydantic cannot see: arguments of parts, and names of each other."""
    space = recipe.classes()
    for protocol in recipe.protocols:
        space.protocol(protocol)
    for name, settings in recipe.data.items():
        kind, rest = split_kind(settings, where=f"data.{name}")
        make = choose(DATASETS, kind, where=f"data.{name}.kind", what="dataset")
        arguments(make, rest, where=f"data.{name}", given=("label_space", "with_labels"))
    for name, stage in recipe.stages.items():
        where = f"stages.{name}"
        if isinstance(stage, TrainStage):
            _check_train(recipe, stage, where)
        else:
            refuse_unknown(stage.data, recipe.data, f"{where}.data", "dataset")
            earlier = _trained_before(recipe, name)
            for model in stage.models:
                refuse_unknown(model, earlier, f"{where}.models", "earlier train stage")


def _trained_before(recipe: Recipe, name: str) -> list[str]:
    stages = list(recipe.stages.items())
    before = stages[: list(recipe.stages).index(name)]
    return [other for other, stage in before if isinstance(stage, TrainStage)]


def _check_train(recipe: Recipe, stage: TrainStage, where: str) -> None:
    drawn = {"source": stage.source} | ({"target": stage.target} if stage.target else {})
    for role, settings in drawn.items():
        refuse_unknown(settings.data, recipe.data, f"{where}.{role}.data", "dataset")
        for index, part in enumerate(settings.augment):
            _check_part(AUGMENTATIONS, part, f"{where}.{role}.augment.{index}", "augmentation")
    for name, network in stage.networks.items():
        path = f"{where}.networks.{name}"
        make = choose(NETWORKS, network.kind, where=f"{path}.kind", what="network")
        arguments(make, network.arguments, where=path, given=("num_classes",))
        if network.optimiser is not None:
            _check_part(OPTIMISERS, network.optimiser, f"{path}.optimiser", "optimiser", "module")
        _check_part(SCHEDULES, network.schedule, f"{path}.schedule", "schedule", "iterations")
    for name, term in stage.terms.items():
        path = f"{where}.terms.{name}"
        loss = choose(LOSSES, term.kind, where=f"{path}.kind", what="loss")
        built = loss(**arguments(loss, term.arguments, where=path))
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
