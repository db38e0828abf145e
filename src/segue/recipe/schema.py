"""What a stage of a recipe may say, by kind; a part says what its builder's signature allows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

# What a batch of files, an image's side or a loop can be counted by.
Count = Annotated[int, Field(gt=0, lt=2**31)]
Part = str | dict[str, Any]
Models = Annotated[list[str], Field(min_length=1)]
Heads = Annotated[dict[str, PositiveFloat], Field(min_length=1)]


class Settings(BaseModel):
    """A mapping with these keys and no others."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Role(Settings):
    """A dataset by name, the size (width, height) its images get, and what then happens to them."""

    data: str
    size: tuple[Count, Count]
    augment: list[Part] = []
    share: float = Field(default=1.0, gt=0, le=1)


class NetworkSettings(BaseModel):
    """A network: its kind with that kind's arguments, what fills and trains it, at what rates.

    `load_from`, weights only: an earlier stage, `STAGE/NAME` for its network of another name, a
    weights file, or for the segmenter the work_dir of a run. `checkpointing` computes what a
    segmenter's encoder would keep in memory again: less memory, more time, the same gradients.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=(), allow_inf_nan=False)
    kind: str
    load_from: str | None = None
    optimiser: Part | None = None
    schedule: Part = "poly"
    clip: float | None = Field(default=None, gt=0)
    checkpointing: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """What goes to the builder of its kind."""
        return dict(self.model_extra or {})


class ViewSettings(BaseModel):
    """A view made from others: its kind with that kind's arguments."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), allow_inf_nan=False)
    kind: str

    @property
    def arguments(self) -> dict[str, Any]:
        """What goes to the builder of its kind."""
        return dict(self.model_extra or {})


class TermSettings(BaseModel):
    """A term of the loss: its kind with that kind's arguments, and its weight."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), allow_inf_nan=False)
    kind: str
    weight: float = 1.0

    @property
    def arguments(self) -> dict[str, Any]:
        """What goes to the builder of its kind."""
        return dict(self.model_extra or {})


class ObjectiveSettings(Settings):
    """Terms by name and the networks that they train."""

    trains: list[str]
    terms: list[str]


class PhaseSettings(Settings):
    """Objectives that share an update, and how often in each iteration."""

    objectives: list[ObjectiveSettings]
    repeat: Count = 1


class TrainStage(Settings):
    """Trains networks on terms; leaves checkpoints, metrics and the segmenter's weights.

    `policy` is stored with the segmenter: how prediction and evaluation look at an image, resized
    as in training (scaled) or at full resolution through a sliding window.
    """

    kind: Literal["train"]
    iterations: Count
    batch_size: Count = 1
    accumulate: Count = 1
    source: Role
    target: Role | None = None
    views: dict[str, ViewSettings] = {}
    networks: dict[str, NetworkSettings]
    terms: dict[str, TermSettings]
    phases: list[PhaseSettings] | None = None
    checkpoint_every: Count = 5000
    log_every: Count = 10
    on_non_finite: Literal["stop", "skip"] = "stop"
    policy: Literal["scaled", "sliding"] = "scaled"


class EvaluateStage(Settings):
    """Scores what train stages left; several models are one, their probabilities averaged."""

    kind: Literal["evaluate"]
    data: str
    size: tuple[Count, Count]
    models: Models
    heads: Heads = {"main": 1.0}


class TranslateStage(Settings):
    """Writes the images of a dataset in the style of another; the stage is then a dataset."""

    kind: Literal["translate"]
    data: str
    towards: str
    size: tuple[Count, Count]
    by: Part = "photometric"


class PseudoLabelStage(Settings):
    """Labels a dataset by what earlier models say of it; the stage is then a dataset.

    `measure_on` names a labelled dataset on which the settled rule is measured; it changes nothing.
    """

    kind: Literal["pseudo_label"]
    data: str
    size: tuple[Count, Count]
    models: Models
    rule: Part
    measure_on: str | None = None
    heads: Heads = {"main": 1.0}


class CentresStage(Settings):
    """Finds each class's mean feature over all source images by an earlier model."""

    kind: Literal["centres"]
    source: Role
    target: Role | None = None
    views: dict[str, ViewSettings] = {}
    view: str = "source"
    model: str
    feature: str = "penultimate"


class GroupsStage(Settings):
    """Clusters what an earlier model says of both domains' pixels."""

    kind: Literal["groups"]
    source: Role
    target: Role
    model: str
    by: Part = "k_means"
    groups: Count = 8


Drawn = TrainStage | CentresStage | GroupsStage
Made = TranslateStage | PseudoLabelStage
Stage = Annotated[Drawn | Made | EvaluateStage, Field(discriminator="kind")]


class AblationRow(Settings):
    """One row of a table of a paper: overrides of the recipe, and what was reported for it.

    `below` names fragments that the recipe is laid over, where a row needs further stages. `model`
    is the train stage whose score the row shows, where that is not the last: rows that say the same
    otherwise are read from one run.
    """

    settings: list[str] = []
    below: list[str] = []
    model: str | None = None
    reported: dict[str, float] = {}


class Ablation(Settings):
    """A table or figure of a paper that `segue sweep --ablation` fills.

    `where` names it in the paper, `of` the recipe for which its figures were reported.
    """

    where: str
    of: str
    rows: dict[str, AblationRow]
