"""Parts by name: settings from YAML, checked against the signature of what they build.

The door between text and typed Python. A table is a dict literal from name to a callable with
keyword arguments; its annotations and defaults are the schema.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from segue.errors import SegueError

T = TypeVar("T")
MOST_NAMED = 40  # in one message


def choose(table: Mapping[str, T], name: object, *, where: str, what: str) -> T:
    """The entry of a table, or an error that suggests the nearest name.

    Example:
        >>> choose({"sgd": 2}, "sdg", where="it", what="optimiser")
        Traceback (most recent call last):
        segue.errors.SegueError: it: unknown optimiser 'sdg'; did you mean 'sgd'? There are: sgd
    """
    if isinstance(name, str) and name in table:
        return table[name]
    raise SegueError(f"unknown {what} {name!r}", where=where, fix=suggestion(str(name), table))


def suggestion(name: str, known: Iterable[str]) -> str:
    """What a user may have meant.

    Example:
        >>> suggestion("itterations", ["iterations", "seed"])
        "did you mean 'iterations'? There are: iterations, seed"
    """
    names = sorted(map(str, known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f"did you mean {near[0]!r}? " if near else ""
    if len(names) > MOST_NAMED:
        return f"{guess}There are {len(names)}, from {names[0]} to {names[-1]}"
    return f"{guess}There are: {', '.join(names)}" if names else "remove it"


def split_kind(settings: object, *, where: str, kind: str = "kind") -> tuple[str, dict[str, Any]]:
    """The name of a part and its arguments: a bare name, or a mapping with that key.

    Example:
        >>> split_kind({"kind": "sgd", "lr": 0.1}, where="optimiser")
        ('sgd', {'lr': 0.1})
    """
    if isinstance(settings, str):
        return settings, {}
    if not isinstance(settings, Mapping):
        raise SegueError(f"needs a mapping with `{kind}`", where=where, fix=f"got {settings!r}")
    if not isinstance(settings.get(kind), str):
        raise SegueError(f"`{kind}` is missing", where=where, fix=f"add `{kind}: NAME`")
    return settings[kind], {key: value for key, value in settings.items() if key != kind}


def arguments(
    build: Callable[..., Any],
    settings: Mapping[str, Any],
    *,
    where: str,
    given: Collection[str] = (),
) -> dict[str, Any]:
    """Checks settings against a signature and returns them with their types.

    Args:
        build: what they are for.
        settings: as read from YAML.
        where: path of the settings in the recipe, for messages.
        given: parameters that the caller passes itself and a recipe may not set.

    Raises:
        SegueError: an unknown key (with a suggestion), a missing one, a bad value (with its path).

    Example:
        >>> def build(*, lr: float, steps: int = 3) -> None: ...
        >>> arguments(build, {"lr": "1e-3"}, where="optimiser")
        {'lr': 0.001}
    """
    checked = parse(_schema(build, frozenset(given)), settings, where=where)
    return {name: getattr(checked, name) for name in settings}


@cache  # one for each part; recipes name the same ones over and over
def _schema(build: Callable[..., Any], given: frozenset[str]) -> type[BaseModel]:
    """A signature as a model of its settings."""
    hints = get_type_hints(build.__init__ if inspect.isclass(build) else build, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(build).parameters.items():
        if name in given or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), default)
    config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False
    )
    return create_model("Settings", __config__=config, **fields)


def build(
    table: Mapping[str, Callable[..., T]],
    settings: object,
    *,
    where: str,
    what: str,
    kind: str = "kind",
    **given: Any,
) -> T:
    """Builds the part that settings describe.

    Example:
        >>> build({"pair": complex}, {"kind": "pair"}, where="views.x", what="view")
        0j
    """
    name, rest = split_kind(settings, where=where, kind=kind)
    make = choose(table, name, where=where, what=what)
    known = inspect.signature(make).parameters if given else {}
    passed = {key: value for key, value in given.items() if key in known}
    checked = arguments(make, rest, where=where, given=passed)
    return construct(make, {**passed, **checked}, where=where)


def construct(make: Callable[..., T], checked: Mapping[str, Any], *, where: str) -> T:
    """What a builder makes of settings that its types allow; its own complaints get their path.

    Raises:
        SegueError: with `where`, what it told.
    """
    try:
        return make(**checked)
    except SegueError as error:
        # Of files their own path says more.
        if not isinstance(error.where, str | None) or str(error.where).startswith(where):
            raise
        place = ""
        if error.where is not None:
            named = error.where in inspect.signature(make).parameters
            place = f".{error.where}" if named else f": {error.where}"
        raise SegueError(error.what, where=f"{where}{place}", fix=error.fix) from error
    except (ValueError, ArithmeticError) as error:
        # What a type cannot say, such as torch's own limits of a rate.
        told = f"will not do: {_lower(str(error))}"
        raise SegueError(told, where=where, fix="change its settings") from error


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], settings: object, *, where: str) -> M:
    """A pydantic model from settings; one of its complaints becomes one line.

    Raises:
        SegueError: with the path of the value, what is wrong, and a suggestion for unknown keys.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        first = min(error.errors(), key=_tells_less)
    missing = first["type"] == "missing"
    path = ".".join((*((where,) if where else ()), *_told(settings, first["loc"], missing)))
    if first["type"] == "extra_forbidden":
        unknown = str(first["loc"][-1])
        known = _keys_at(model, first["loc"][:-1])
        raise SegueError("unknown key", where=path, fix=suggestion(unknown, known))
    if missing:
        raise SegueError("is missing", where=path, fix="add it")
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        # An alternative is chosen by its `kind`.
        kinds = re.findall(r"'(\w+)'", first["ctx"].get("expected_tags", ""))
        told = dict.fromkeys(kinds)
        split_kind(first["input"], where=path)
        choose(told, first["ctx"]["tag"], where=f"{path}.kind", what="kind")
    shown = repr(first["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    quoted = first["type"] == "string_type" and not isinstance(first["input"], Mapping | list)
    fix = "write it in quotes" if quoted else _lower(first["msg"])
    raise SegueError(f"{shown} will not do", where=path, fix=fix)


def _tells_less(error: Any) -> tuple[bool, bool]:
    """What to sort complaints by.

    A misspelt key is also a missing one: the first tells more. A mapping that is no text, where
    that would do too, has a fault of its own.
    """
    beside = error["type"] == "string_type" and isinstance(error["input"], Mapping)
    return beside, error["type"] != "extra_forbidden"


def _told(settings: Any, location: tuple[int | str, ...], missing: bool) -> list[str]:
    """The keys of a location that the user wrote, without pydantic's names of alternatives."""
    told = []
    for index, part in enumerate(location):
        inside = isinstance(settings, Mapping) and part in settings
        if isinstance(settings, list) and isinstance(part, int):
            inside = part < len(settings)
        if inside:
            settings = settings[part]
        if inside or (missing and index == len(location) - 1):
            told.append(str(part))
    return told


def _lower(message: str) -> str:
    message = message.removeprefix("Value error, ").replace("a valid tuple", "a list")
    return message[:1].lower() + message[1:]


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that a nested model knows, so that a suggestion names the right ones."""
    known = [model]
    for part in location:
        fields = [one.model_fields[str(part)] for one in known if part in one.model_fields]
        inner = [found for field in fields for found in _models(field.annotation)]
        tagged = [one for one in known if _tag(one) == part]
        # A key of a mapping or a place in a list leads to no other model.
        known = inner or tagged or known
    return [name for one in known for name in one.model_fields]


def _tag(model: type[BaseModel]) -> object:
    kind = model.model_fields.get("kind")
    return getattr(kind.annotation, "__args__", (None,))[0] if kind else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models(inner)]
