"""Rows of a paper's table as runs: what a row says, over what the user set, over the recipe."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segue.errors import SegueError
from segue.parts import choose, suggestion
from segue.recipe.files import resolve, setting, unexpanded
from segue.recipe.merging import merge
from segue.recipe.recipe import Ablation, EvaluateStage, Recipe
from segue.recipe.schema import AblationRow


@dataclass(frozen=True)
class Point:
    """One choice of the settings that vary, or one row of a paper's table.

    Args:
        choice: value by key.
        settings: `key=value` that make it.
        below: recipes that it is laid over.
        model: the train stage whose score it is; None: what the last evaluate stage scores.
        value: the one setting by which the rows of a table differ, where they do by one.
        reported: what a paper reports for it by protocol, in per cent.
        without: settings of the user that do nothing here.
        miou: one per seed, 0 to 1, of the headline protocol.
        others: the same of further protocols, by name.
    """

    choice: dict[str, Any]
    settings: list[str]
    below: list[str] = field(default_factory=list)
    model: str | None = None
    value: dict[str, Any] = field(default_factory=dict)
    reported: dict[str, float] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    miou: list[float] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What messages call it."""
        return ", ".join(str(value) for value in self.choice.values())

    @property
    def run(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What points have in common that are read from one run."""
        return tuple(self.settings), tuple(self.below)

    @property
    def text(self) -> str:
        """Mean, with the sample standard deviation where there are several seeds, in per cent."""
        return with_spread(self.miou)

    def add(self, scores: Mapping[str, float]) -> None:
        """Takes in one seed's mean IoU by protocol, the headline first."""
        (_, headline), *further = scores.items()
        self.miou.append(headline)
        for protocol, score in further:
            self.others.setdefault(protocol, []).append(score)


def with_spread(scores: Sequence[float]) -> str:
    """Mean, with the sample standard deviation where there are several, in per cent.

    Example:
        >>> with_spread([0.5])
        '50.0'
    """
    mean = f"{100 * statistics.mean(scores):.1f}"
    spread = 100 * statistics.stdev(scores) if len(scores) > 1 else None
    return mean if spread is None else f"{mean} \u00b1 {spread:.1f}"


def rows_of(name: str, recipe: Recipe, ablation: str, settings: Sequence[str]) -> list[Point]:
    """The rows of one of a recipe's ablations, as in the paper.

    The user's settings lie over the recipe and below the row. Those of a stage that the row has not
    are left out of it; they, and those that the row overrides, stand in its `without`.

    Raises:
        SegueError: there is no such ablation, or a setting is of a stage that no row has.
    """
    chosen = choose(recipe.ablations, ablation, where=recipe.name, what="ablation")
    alone = [dict(setting(text) for text in one.settings) for one in chosen.rows.values()]
    varies = any(one != alone[0] for one in alone)
    curve = varies and all(list(one) == list(alone[0]) and len(one) == 1 for one in alone)
    known = [_stage_names(name, one) for one in chosen.rows.values()]
    for text in settings:
        _refuse_unknown(text, set().union(*known))
    points = []
    for (row, one), value, stages in zip(chosen.rows.items(), alone, known, strict=True):
        taken = [text for text in settings if _stage(text) in (None, *stages)]
        laid = unexpanded(name, [*taken, *one.settings], below=one.below)
        points.append(
            Point(
                {"row": row},
                [*taken, *one.settings],
                below=one.below,
                model=one.model,
                value=value if curve else {},
                reported=one.reported,
                without=[text for text in settings if text not in taken or not _acts(text, laid)],
            )
        )
    return points


def _stage_names(name: str, row: AblationRow) -> set[str]:
    """The names by which a setting reaches a row's stages: as written, and each round's own."""
    written = unexpanded(name, row.settings, below=row.below).get("stages") or {}
    return {*written, *resolve(name, row.settings, below=row.below).get("stages", {})}


def _stage(text: str) -> str | None:
    """The stage that a setting changes; None where it changes none, or gives a whole one."""
    key, value = setting(text)
    first, *rest = key.split(".")
    whole = len(rest) == 1 and value is not None
    return rest[0] if first == "stages" and rest and not whole else None


def _refuse_unknown(text: str, known: set[str]) -> None:
    stage = _stage(text)
    if stage is not None and stage not in known:
        fix = suggestion(stage, known)
        raise SegueError(f"no row has a stage {stage!r}", where=setting(text)[0], fix=fix)


def _acts(text: str, laid: Mapping[str, Any]) -> bool:
    """Whether a setting still stands after the row was laid over it, and not in rounds of none."""
    key, value = setting(text)
    there: Any = laid
    for part in key.split("."):
        if isinstance(there, Mapping) and there.get("repeat") == 0 and part == "stages":
            return False
        numbers = {str(one): one for one in there} if isinstance(there, Mapping) else {}
        if part not in numbers:
            return value is None
        there = there[numbers[part]]
    return value is not None and merge({key: there}, {key: value}) == {key: there}


def scoring(recipe: Recipe, model: str | None) -> str:
    """The evaluate stage that scores a model alone; None: the last.

    Raises:
        SegueError: no stage does.

    Example:
        >>> from segue.recipe import load
        >>> scoring(load("coarse-to-fine-demo"), "fine_1")
        'evaluate_previous_2'
    """
    stages = {n: one for n, one in recipe.stages.items() if isinstance(one, EvaluateStage)}
    if not stages:
        raise SegueError("has no evaluate stage", where=recipe.name, fix="add one")
    last = list(stages.values())[-1]
    if model is None:
        return list(stages)[-1]
    for name, one in stages.items():
        if one == last.model_copy(update={"models": [model]}):
            return name
    fix = "add one, of the last one's data and size"
    raise SegueError(f"no evaluate stage scores {model!r} alone", where=recipe.name, fix=fix)


def reported_for(recipe: Recipe, ablation: Ablation) -> dict[str, str]:
    """The headings of a paper's figures by protocol, which say so where they are of another task.

    They are of the same where the recipe is that which they were reported for, and shows them.
    """
    found = list(dict.fromkeys(name for row in ablation.rows.values() for name in row.reported))
    shown = recipe.shown_protocols()
    headings = {}
    for protocol in found:
        heading = f"reported, {ablation.where}"
        if recipe.name != ablation.of or protocol not in shown:
            heading += f", for {ablation.of} (protocol {protocol})"
        elif len(found) > 1:
            heading += f" (protocol {protocol})"
        headings[protocol] = heading
    return headings
