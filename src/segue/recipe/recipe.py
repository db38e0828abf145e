"""Recipes: checked settings of what is run. Beyond this door no setting is text.

A recipe is an ordered table of stages over named datasets. `base:` extends another recipe;
`key=value` on the command line sets what it says. Everything is checked here, before anything
runs: keys, values, the arguments of every part, and that parts name each other rightly.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from segue.errors import SegueError
from segue.label_space import LABEL_SPACES, LabelSpace
from segue.parts import choose
from segue.recipe.safe_yaml import Dumper
from segue.recipe.schema import (
    Ablation,
    CentresStage,
    EvaluateStage,
    GroupsStage,
    NetworkSettings,
    PhaseSettings,
    PseudoLabelStage,
    Role,
    Settings,
    Stage,
    TermSettings,
    TrainStage,
    TranslateStage,
    ViewSettings,
)

__all__ = [
    "Ablation",
    "CentresStage",
    "EvaluateStage",
    "GroupsStage",
    "NetworkSettings",
    "OwnLabelSpace",
    "Paper",
    "PhaseSettings",
    "PseudoLabelStage",
    "Recipe",
    "Role",
    "TermSettings",
    "TrainStage",
    "TranslateStage",
    "ViewSettings",
]


class Paper(Settings):
    """Where a recipe comes from and what was reported for it, in percent.

    `reported` is mIoU by protocol, `classes` IoU by class: what the cells of the paper say, also
    where they do not average to its mean.
    """

    title: str
    venue: str
    where: str = ""
    reported: dict[str, float] = Field(default={})
    classes: dict[str, float] = Field(default={})


class OwnLabelSpace(Settings):
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


class Recipe(Settings):
    """What is run, as checked settings.

    Example:
        >>> from segue.recipe import load
        >>> recipe = load("source-only-demo", ["seed=3", "stages.train.iterations=20"])
        >>> recipe.seed, list(recipe.stages), recipe.stages["train"].iterations
        (3, ['train', 'evaluate'], 20)
    """

    format: Literal[1] = 1
    name: str
    title: str = ""
    paper: Paper | None = None
    # Networks are drawn by a thousand times as much, and torch takes 64 bits.
    seed: int = Field(default=0, ge=0, lt=2**53)
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    deterministic: bool = False
    compile: bool = False
    workers: int | None = Field(default=None, ge=0)
    label_space: str | OwnLabelSpace
    protocols: list[str] = Field(default=[])
    data: dict[str, dict[str, Any]]
    cache: str | None = None  # written as `data.cache`
    stages: dict[str, Stage]
    ablations: dict[str, Ablation] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _protocols_are_text(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("protocols"), list):
            value = {**value, "protocols": [str(name) for name in value["protocols"]]}
        return value

    @model_validator(mode="before")
    @classmethod
    def _cache_is_no_dataset(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("data"), dict):
            return value
        if "cache" in value:
            raise SegueError("unknown key", where="cache", fix="write it as `data.cache`")
        if "cache" not in value["data"]:
            return value
        data = dict(value["data"])
        folder = data.pop("cache")
        if not isinstance(folder, str | None) or folder == "":
            fix = "give the folder of a cache, or null; a dataset needs another name"
            raise SegueError(f"{folder!r} will not do", where="data.cache", fix=fix)
        return {**value, "data": data, "cache": folder}

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
        plain = self._set()
        plain["data"] = self.data | ({"cache": self.cache} if self.cache is not None else {})
        return yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)

    def _set(self) -> dict[str, Any]:
        """What is set, as plain values.

        To parts and as a network's optimiser null says something: it is not the default.
        """
        plain = _without_null(self.model_dump(mode="json", exclude={"ablations", "cache"}))
        if isinstance(plain["label_space"], dict):
            plain["label_space"] = _without_null(plain["label_space"])
        plain["stages"] = {name: _without_null(one) for name, one in plain["stages"].items()}
        for stage in plain["stages"].values():
            for network in stage.get("networks", {}).values():
                for key in ("load_from", "clip"):
                    if network[key] is None:
                        del network[key]
        return plain

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
        # How often state is saved and what is kept in memory do not change it.
        for settings in told["stages"].values():
            settings.pop("checkpoint_every", None)
            settings.pop("on_non_finite", None)
            if settings.get("policy") == "scaled":  # what all were before there was another
                del settings["policy"]
            for network in settings.get("networks", {}).values():
                network.pop("checkpointing")
        text = json.dumps(told, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _without_null(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}
