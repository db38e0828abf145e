"""Stages that are written once and run many times: templates, `like`, rounds and ablations."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from segue.errors import SegueError
from segue.parts import suggestion
from segue.recipe.merging import merge

_MARKS = ("this.", "previous.", "last.")


def refuse_unknown(
    name: str, known: Sequence[str] | Mapping[str, Any], where: str, what: str
) -> None:
    """Refuses a name that is not among those known.

    Raises:
        SegueError: with the nearest of what there is.
    """
    if name not in known:
        raise SegueError(
            f"no {what} is called {name!r}", where=where, fix=suggestion(str(name), known)
        )


def expand_rounds(settings: dict[str, Any]) -> None:
    """Writes out, in place, every stage with `repeat` as its inner stages, once per round.

    Of `{repeat: 2, start: {fine: coarse}, stages: {labels: .., fine: ..}}` come `labels_1`,
    `fine_1`, `labels_2`, `fine_2`. Inside, `this.labels` is the stage of the same round,
    `previous.fine` that of the round before (in the first round what `start` names; `start: {fine:
    null}` leaves the setting out there), and a mapping `{by_round: [a, b]}` its round's entry.
    Anywhere later `last.fine` is that of the last round. Settings given to a written-out name, as
    `stages.fine_2.iterations=10`, are laid over it.

    Example:
        >>> inner = {"fine": {"kind": "train", "like": "previous.fine"}}
        >>> rounds = {"repeat": 2, "start": {"fine": "coarse"}, "stages": inner}
        >>> whole = {"stages": {"rounds": rounds}}
        >>> expand_rounds(whole)
        >>> [stage["like"] for stage in whole["stages"].values()]
        ['coarse', 'fine_1']
    """
    stages = settings.get("stages")
    if not isinstance(stages, dict):
        return
    last: dict[str, Any] = {}
    rounds: dict[str, dict[str, Any]] = {}
    for name, stage in stages.items():
        if isinstance(stage, dict) and "repeat" in stage:
            rounds[name], newest = _rounds(name, stage)
            last |= newest
    inner = {one for stages_of in rounds.values() for one in stages_of}
    written: dict[str, Any] = {}
    for name, stage in stages.items():
        if name in rounds:
            written |= merge(rounds[name], {n: s for n, s in stages.items() if n in rounds[name]})
        elif name not in inner:
            written[name] = stage
    settings["stages"] = {
        name: _replaced(stage, {"last": last}, f"stages.{name}") for name, stage in written.items()
    }


def _rounds(name: str, stage: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stages of all rounds by name, and by inner name what the last round left."""
    where = f"stages.{name}"
    for key in stage:
        refuse_unknown(key, ("repeat", "start", "stages"), where, "key of rounds")
    count, inner = stage["repeat"], stage.get("stages")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise SegueError(f"{count!r} will not do", where=f"{where}.repeat", fix="0 rounds or more")
    if not isinstance(inner, dict) or not inner:
        raise SegueError("rounds have no stages", where=where, fix="give `stages`")
    start = stage.get("start") or {}
    if not isinstance(start, dict):
        fix = "map inner stages to earlier ones"
        raise SegueError(f"{start!r} will not do", where=f"{where}.start", fix=fix)
    previous: dict[str, Any] = dict(start)
    found: dict[str, Any] = {}
    for number in range(1, count + 1):
        names = {one: f"{one}_{number}" for one in inner}
        marks = {"this": names, "previous": previous}
        for one, what in inner.items():
            found[names[one]] = _replaced(what, marks, f"{where}.stages.{one}", number)
        previous = {**previous, **names}
    return found, previous


def _replaced(
    value: Any, marks: Mapping[str, Mapping[str, Any]], where: str, number: int = 0
) -> Any:
    """The value with every mark replaced by the stage that it stands for."""
    if isinstance(value, str) and value.startswith(_MARKS):
        mark, _, name = value.partition(".")
        if mark not in marks:
            return value
        # A file of a stage's folder may follow: `previous.fine/grouping`.
        stage, slash, rest = name.partition("/")
        refuse_unknown(stage, marks[mark], where, f"stage behind {mark!r}")
        told = marks[mark][stage]
        return None if told is None else f"{told}{slash}{rest}"
    if isinstance(value, Mapping):
        if number and set(value) == {"by_round"}:
            every = value["by_round"]
            if not isinstance(every, list) or not every:
                raise SegueError("needs a list", where=f"{where}.by_round", fix="one a round")
            return copy.deepcopy(every[min(number, len(every)) - 1])
        inner = {
            key: (one, _replaced(one, marks, f"{where}.{key}", number))
            for key, one in value.items()
        }
        return {key: new for key, (old, new) in inner.items() if new is not None or old is None}
    if isinstance(value, list):
        return [_replaced(one, marks, where, number) for one in value]
    return value


def expand_like(settings: dict[str, Any]) -> None:
    """Lays a stage with `like: OTHER` over that template or earlier stage; drops the templates.

    A template may be like an earlier template.
    """
    templates = settings.pop("templates", None) or {}
    if not isinstance(templates, dict):
        fix = "map names to stages"
        raise SegueError(f"{templates!r} will not do", where="templates", fix=fix)
    for key, known in (("templates", {}), ("stages", templates)):
        stages = templates if key == "templates" else settings.get("stages")
        if not isinstance(stages, dict):
            continue
        seen = dict(known)
        for name, stage in stages.items():
            other = stage.get("like") if isinstance(stage, dict) else None
            if other is not None:
                refuse_unknown(str(other), seen, f"{key}.{name}.like", "template or earlier stage")
                if isinstance(seen[other], dict):
                    own = {one: value for one, value in stage.items() if one != "like"}
                    stages[name] = merge(seen[other], own)
            seen[name] = stages[name]


def give_sizes(settings: dict[str, Any]) -> None:
    """Writes a dataset's `size` into every stage that uses it and says none, in place.

    What a stage makes has the size of that stage.

    Example:
        >>> stage = {"kind": "evaluate", "data": "photos"}
        >>> whole = {"data": {"photos": {"size": [64, 32]}}, "stages": {"score": stage}}
        >>> give_sizes(whole)
        >>> whole["stages"]["score"]["size"], whole["data"]
        ([64, 32], {'photos': {}})
    """
    data = settings.get("data")
    stages = settings.get("stages")
    if not isinstance(data, dict) or not isinstance(stages, dict):
        return
    datasets = {name: one for name, one in data.items() if isinstance(one, dict)}
    sizes = {name: one.pop("size") for name, one in datasets.items() if "size" in one}
    for name, stage in stages.items():
        if not isinstance(stage, dict):
            continue
        for user in (stage, *(stage.get(role) for role in ("source", "target"))):
            if not isinstance(user, dict) or "size" in user:
                continue
            if isinstance(user.get("data"), str) and user["data"] in sizes:
                user["size"] = copy.copy(sizes[user["data"]])
        if "size" in stage:
            sizes[name] = stage["size"]
