"""Recipe files: YAML, `base` and `key=value` in, one plain mapping of settings out."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.losses import LOSS_NETWORKS
from segue.parts import suggestion
from segue.recipe.expand import expand_like, expand_rounds
from segue.recipe.safe_yaml import DEEPEST, parsed

FORMAT = 1


def shipped() -> list[str]:
    """Names of the recipes that come with Segue."""
    folder = resources.files("segue") / "recipes"
    names = (Path(entry.name) for entry in folder.iterdir())
    return sorted(name.stem for name in names if name.suffix == ".yaml" and name.stem[0] != "_")


def resolve(
    name: str | Path, overrides: Sequence[str] = (), *, below: Sequence[str] = ()
) -> dict[str, Any]:
    """The settings of a recipe with everything laid over them that it and the user say.

    Args:
        name: of a shipped recipe, or the path of a file.
        overrides: `key=value`, one laid over the other.
        below: recipes that it is laid over, as if its `base` named them first.

    Raises:
        SegueError: there is no such recipe, it is not YAML, or it extends what is not there.

    Example:
        >>> sorted(resolve("source-only-demo", ["seed=3"]))[:3]
        ['data', 'label_space', 'name']
    """
    settings: dict[str, Any] = {}
    for one in (*below, str(name)):
        settings = merge(settings, _read(one, ()))
    usual = _brought_anywhere(settings)
    for override in overrides:
        settings = merge(settings, _nested(override))
    version = settings.get("format", FORMAT)
    if isinstance(version, int) and version > FORMAT:
        raise SegueError("is of a newer format", where=f"recipe {name}", fix="upgrade Segue")
    settings.pop("base", None)
    settings.setdefault("name", Path(name).stem)
    _expand(settings)
    _bring_networks(settings, usual)
    return settings


def _expand(settings: dict[str, Any]) -> None:
    expand_rounds(settings, merge)
    expand_like(settings, merge, _forget_unbrought)


def _brought_anywhere(settings: Mapping[str, Any]) -> set[str]:
    """Names of the networks that losses of a recipe bring before it is overridden."""
    whole = copy.deepcopy(dict(settings))
    _expand(whole)
    stages = whole.get("stages")
    found = stages.values() if isinstance(stages, dict) else ()
    return {name for stage in found if isinstance(stage, dict) for name in _brought(stage)}


def _read(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if _identity(name) in seen:
        raise SegueError("extends itself", where=f"recipe {name}", fix="change `base`")
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise SegueError(
                "no such recipe file", where=path, fix="`segue list` names shipped ones"
            )
        text = path.read_bytes()
    else:
        entry = resources.files("segue") / "recipes" / f"{name}.yaml"
        if not entry.is_file():
            fix = f"{suggestion(name, shipped())}; or give the path of a YAML file"
            raise SegueError(f"no recipe is called {name!r}", fix=fix)
        text = entry.read_bytes()
    settings = parsed(text, where=name)
    if not isinstance(settings, dict):
        raise SegueError("is not a mapping of keys", where=name, fix="see docs/recipes.md")
    bases = settings.get("base")
    whole: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases] if bases is not None else []:
        if str(base).endswith((".yaml", ".yml")):
            base = str(Path(name).parent / str(base))
        whole = merge(whole, _read(str(base), (*seen, _identity(name))))
    # What was reported for those recipes was not reported for this one.
    whole.pop("paper", None)
    return merge(whole, settings)


def _identity(name: str) -> str:
    """What tells a recipe from others, whatever way leads to its file."""
    return str(Path(name).resolve()) if Path(name).suffix in (".yaml", ".yml") else name


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings laid over others: mappings merge, null removes what is there, all else replaces.

    A part of another `kind` replaces the whole part, since its arguments are others.

    Example:
        >>> merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5, "c": None}})
        {'a': {'b': 5}, 'd': 3}
    """
    merged: dict[Any, Any] = copy.deepcopy(dict(below))
    for one, value in above.items():
        key = _as_it_stands(one, merged)
        old = merged.get(key)
        if value is None and key in merged:
            del merged[key]
        elif isinstance(old, Mapping) and isinstance(value, Mapping) and _same_kind(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _as_it_stands(key: Any, known: Mapping[Any, Any]) -> Any:
    """The key, as a number where that is known: `ids.7=road` on a command line is text."""
    if key in known or not isinstance(key, str):
        return key
    return next((one for one in known if not isinstance(one, str) and str(one) == key), key)


def _same_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "kind" not in new or "kind" not in old or old["kind"] == new["kind"]


def setting(override: str) -> tuple[str, Any]:
    """Key and value of a `key=value`.

    Raises:
        SegueError: it is none, or the value is not YAML.

    Example:
        >>> setting("stages.train.iterations=200")
        ('stages.train.iterations', 200)
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip() or key.count(".") >= DEEPEST:
        raise SegueError(f"{override!r} is not key=value", fix="write e.g. seed=1")
    try:
        return key.strip(), parsed(text, where=key)
    except SegueError:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise SegueError(f"{shown!r} is not a YAML value", where=key, fix="quote it") from None


def _nested(override: str) -> dict[str, Any]:
    key, value = setting(override)
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _forget_unbrought(stage: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Drops what the other stage said of networks whose loss this stage has not."""
    networks = stage.get("networks")
    if not isinstance(networks, dict):
        return
    kept = {*_brought(stage), *(own.get("networks") or ())}
    for name, network in list(networks.items()):
        if name not in kept and isinstance(network, dict) and "kind" not in network:
            del networks[name]


def _bring_networks(settings: dict[str, Any], usual: Collection[str]) -> None:
    """Adds, below what the recipe says, the networks that its losses bring along.

    What it says of one among the `usual` whose loss was overridden away goes with the loss.
    """
    stages = settings.get("stages")
    for stage in stages.values() if isinstance(stages, dict) else ():
        if not isinstance(stage, dict) or not isinstance(stage.get("terms"), dict):
            continue
        networks = stage.setdefault("networks", {})
        if not isinstance(networks, dict):
            continue
        brought = _brought(stage)
        for name, network in brought.items():
            described = networks.get(name) or {}
            if isinstance(described, dict):
                networks[name] = merge(network, described)
        for name in [one for one in networks if one in usual and one not in brought]:
            if isinstance(networks[name], dict) and "kind" not in networks[name]:
                del networks[name]


def _brought(stage: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The networks that a stage's losses bring along, as they describe them."""
    terms = stage.get("terms")
    found: dict[str, dict[str, Any]] = {}
    for term in terms.values() if isinstance(terms, dict) else ():
        kind = term.get("kind") if isinstance(term, dict) else None
        bring = LOSS_NETWORKS.get(kind) if isinstance(kind, str) else None
        found |= bring(term) if bring else {}
    return found
