"""Recipe files: YAML, `base` and `key=value` in, one plain mapping of settings out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.losses import LOSS_NETWORKS
from segue.recipe import compose
from segue.recipe.expand import expand_like, expand_rounds, give_sizes
from segue.recipe.merging import merge
from segue.recipe.safe_yaml import DEEPEST, parsed, parsed_override

FORMAT = 1


def shipped() -> list[str]:
    """Names of the recipes that come with Segue."""
    return sorted(compose.cells())


def resolve(
    name: str | Path,
    overrides: Sequence[str] = (),
    *,
    on: str | Path | None = None,
    below: Sequence[str] = (),
) -> dict[str, Any]:
    """The settings of a recipe with everything laid over them that it and the user say.

    Args:
        name: of a shipped recipe, or the path of a file; with `on`, of a method.
        overrides: `key=value`, one laid over the other.
        on: the pair of datasets that the method is put on: a shipped one's name, or the path of a
            file with data and, where it says more than `pairs/any.yaml`, templates.
        below: recipes that it is laid over, as if its `base` named them first.

    Raises:
        SegueError: there is no such recipe, it is not YAML, or it extends what is not there.

    Example:
        >>> sorted(resolve("source-only-demo", ["seed=3"]))[:3]
        ['data', 'label_space', 'name']
    """
    settings = unexpanded(name, on=on, below=below)
    optional = _optional(settings)
    for override in overrides:
        settings = merge(settings, _nested(override))
    version = settings.get("format", FORMAT)
    if isinstance(version, int) and version > FORMAT:
        raise SegueError("is of a newer format", where=f"recipe {name}", fix="upgrade Segue")
    settings.pop("base", None)
    settings.setdefault("name", Path(name).stem)
    expand_rounds(settings)
    expand_like(settings)
    give_sizes(settings)
    _bring_networks(settings, optional)
    return settings


def unexpanded(
    name: str | Path,
    overrides: Sequence[str] = (),
    *,
    on: str | Path | None = None,
    below: Sequence[str] = (),
) -> dict[str, Any]:
    """What a recipe and its bases say, before rounds and templates are written out."""
    layers = _Layers()
    for one in below:
        layers.lay(one)
    if on is None:
        layers.lay(str(name))
    else:
        layers.settings = merge(layers.settings, _method_on(str(name), str(on)))
    settings = layers.settings
    for override in overrides:
        settings = merge(settings, _nested(override))
    return settings


def _method_on(method: str, pair: str) -> dict[str, Any]:
    """The settings of a method on a pair, shipped or a file."""
    if not _is_path(pair):
        return {"name": f"{method}-{pair}", **compose.method_on(method, pair)}
    layers = _Layers()
    layers.lay(pair)
    data = layers.settings
    if "stages" in data:
        fix = "a file for --on holds data and templates; run it without --on, or take `stages` out"
        raise SegueError("has stages of its own", where=pair, fix=fix)
    own = {"name": f"{method}-{Path(pair).stem}"}
    return {**own, **compose.method_on_data(method, data, layers.pairs, title=Path(pair).stem)}


def _optional(settings: Any, *, template: bool = False) -> set[str]:
    """Names of networks that are there where a loss brings them and nowhere else.

    Losses of any stage bring them, or a template describes them without a kind.
    """
    if not isinstance(settings, Mapping):
        return set()
    terms, networks = settings.get("terms"), settings.get("networks")
    found = set(_brought(terms)) if isinstance(terms, Mapping) else set()
    if template and isinstance(networks, Mapping):
        found |= {name for name, one in networks.items() if "kind" not in (one or ())}
    return found.union(
        *(_optional(one, template=template or key == "templates") for key, one in settings.items())
    )


@dataclass
class _Layers:
    """Settings as they grow, one recipe laid over the other, each base once."""

    settings: dict[str, Any] = field(default_factory=dict)
    pairs: list[str] = field(default_factory=list)  # shipped ones, each after that it extends
    files: set[str] = field(default_factory=set)

    def lay(self, name: str, seen: tuple[str, ...] = ()) -> None:
        """A file after its bases, or what is shipped under a name."""
        if not _is_path(name):
            self.settings, self.pairs = compose.laid(self.settings, name, self.pairs)
            return
        path, identity = Path(name), str(Path(name).resolve())
        if identity in seen:
            raise SegueError("extends itself", where=f"recipe {name}", fix="change `base`")
        # Met again, it would un-say what was laid over it since.
        if identity in self.files:
            return
        own = _read(path)
        bases = own.get("base")
        for base in bases if isinstance(bases, list) else [bases] if bases is not None else []:
            beside = str(path.parent / str(base)) if _is_path(str(base)) else str(base)
            self.lay(beside, (*seen, identity))
        self.files.add(identity)
        # What was reported for those recipes was not reported for this one.
        self.settings.pop("paper", None)
        self.settings = merge(self.settings, own)


def _read(path: Path) -> dict[str, Any]:
    """One file as it stands."""
    if not path.is_file():
        other = path.with_suffix({".yml": ".yaml", ".yaml": ".yml"}.get(path.suffix, path.suffix))
        fix = f"there is {other}" if other.is_file() else "`segue list` names shipped ones"
        raise SegueError("no such recipe file", where=path, fix=fix)
    settings = parsed(path.read_bytes(), where=path)
    if not isinstance(settings, dict):
        raise SegueError("is not a mapping of keys", where=path, fix="see docs/recipes.md")
    return settings


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name


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
        return key.strip(), parsed_override(text, where=key)
    except SegueError:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise SegueError(f"{shown!r} is not a YAML value", where=key, fix="quote it") from None


def _nested(override: str) -> dict[str, Any]:
    key, value = setting(override)
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _bring_networks(settings: dict[str, Any], optional: Collection[str]) -> None:
    """Adds, below what the recipe says, the networks that its losses bring along.

    What a stage says of an `optional` one whose loss it has not, or no longer, goes.
    """
    stages = settings.get("stages")
    for stage in stages.values() if isinstance(stages, dict) else ():
        if not isinstance(stage, dict) or not isinstance(stage.get("terms"), dict):
            continue
        networks = stage.setdefault("networks", {})
        if not isinstance(networks, dict):
            continue
        brought = _brought(stage["terms"])
        for name, network in brought.items():
            described = networks.get(name) or {}
            if isinstance(described, dict):
                networks[name] = merge(network, described)
        for name in [one for one in networks if one in optional and one not in brought]:
            if isinstance(networks[name], dict) and "kind" not in networks[name]:
                del networks[name]


def _brought(terms: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The networks that losses bring along, as they describe them."""
    found: dict[str, dict[str, Any]] = {}
    for term in terms.values():
        kind = term.get("kind") if isinstance(term, dict) else None
        bring = LOSS_NETWORKS.get(kind) if isinstance(kind, str) else None
        found |= bring(term) if bring else {}
    return found
