"""Shipped recipes: methods on pairs of datasets.

`recipes/pairs` holds data and templates of stages, `recipes/methods` the stages of each method and
what it says otherwise on a pair, `recipes/fragments` stages that several methods put before theirs.
METHOD on PAIR is, one laid over the other: the pair that PAIR extends and PAIR itself; the
fragments that the method names in `before`; the method; the method's entries for these pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from segue.errors import SegueError
from segue.parts import suggestion
from segue.recipe.merging import merge
from segue.recipe.safe_yaml import parsed

# Keys of a method's file that are about composing, not settings of a recipe.
OWN = ("title", "paper", "like", "before", "pairs")

Settings = dict[str, Any]


@functools.cache
def names(folder: str) -> list[str]:
    """What stands in one of the folders; not to be changed.

    Example:
        >>> names("fragments")
        ['fixed-groups', 'translated-by-cyclegan', 'translated-by-photometry']
    """
    files = (resources.files("segue") / "recipes" / folder).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


@functools.cache
def read(folder: str, name: str) -> Settings:
    """One file as it stands; not to be changed.

    Raises:
        SegueError: there is none of that name.
    """
    known = names(folder)
    if name not in known:
        raise SegueError(f"no {folder[:-1]} is called {name!r}", fix=suggestion(name, known))
    where = f"recipes/{folder}/{name}.yaml"
    settings = parsed((resources.files("segue") / where).read_bytes(), where=where)
    assert isinstance(settings, dict)
    return settings


def chain(pair: str) -> list[str]:
    """A pair's name after those that it extends.

    Example:
        >>> chain("carla-native")
        ['carla', 'carla-native']
    """
    extends = read("pairs", pair).get("extends")
    return [*(chain(extends) if extends else []), pair]


def data_of(pair: str, *, after: Sequence[str] = ()) -> Settings:
    """Data and templates of a pair, laid over those that it extends and that are not there yet."""
    whole: Settings = {}
    for one in chain(pair):
        if one not in after:
            own = read("pairs", one)
            whole = merge(whole, {key: own[key] for key in own if key not in ("extends", "title")})
    return whole


def likes(method: str) -> list[str]:
    """A method's name after that which it is like."""
    like = read("methods", method).get("like")
    return [*(likes(like) if like else []), method]


def before(method: str, pairs: Sequence[str]) -> list[str]:
    """The fragments that a method needs on the last of a chain of pairs."""
    found: list[str] = []
    for one in likes(method):
        own = read("methods", one)
        found = own.get("before", found)
        for pair in pairs:
            found = (own.get("pairs") or {}).get(pair, {}).get("before", found)
    return found


def lay(
    method: str, below: Mapping[str, Any], pairs: Sequence[str], *, fragments: bool = True
) -> Settings:
    """A method laid over data and templates, with its entries for a chain of pairs."""
    whole = dict(below)
    for fragment in before(method, pairs) if fragments else ():
        whole = merge(whole, read("fragments", fragment))
    for one in likes(method):
        own = read("methods", one)
        whole = merge(whole, {key: own[key] for key in own if key not in OWN})
        if one in names("ablations"):
            whole = merge(whole, {"ablations": read("ablations", one)})
        for entry in entries(one, pairs):
            kept = {key: entry[key] for key in entry if key not in ("title", "paper", "before")}
            whole = merge(whole, kept)
    return whole


def entries(method: str, pairs: Sequence[str]) -> Iterator[Settings]:
    """What a method says otherwise on each of a chain of pairs."""
    said = read("methods", method).get("pairs") or {}
    yield from (said[pair] or {} for pair in pairs if pair in said)


def method_on(method: str, pair: str) -> Settings:
    """The settings of METHOD on PAIR, both shipped.

    Raises:
        SegueError: one of them does not exist.

    Example:
        >>> list(method_on("source-only", "carla")["stages"])
        ['train', 'evaluate']
    """
    return _cell({}, method, pair, after=())


def _cell(below: Settings, method: str, pair: str, *, after: Sequence[str]) -> Settings:
    own, on = read("methods", method), read("pairs", pair)
    whole = lay(method, merge(below, data_of(pair, after=after)), chain(pair))
    entry = (own.get("pairs") or {}).get(pair) or {}
    whole["title"] = entry.get("title", f"{own['title']}, {on['title']}")
    # What a paper reports, it reports of one pair.
    whole.pop("paper", None)
    if "paper" in entry:
        whole["paper"] = {**own.get("paper", {}), **entry["paper"]}
    return whole


def method_on_data(
    method: str, data: Mapping[str, Any], pairs: Sequence[str], *, title: str
) -> Settings:
    """The settings of a method on data of one's own, which may stand on shipped pairs.

    Where they stand on none, templates are those of `pairs/any.yaml`. What scores on `validation`
    is left out where there is no such dataset.
    """
    own = read("methods", method)
    whole = lay(method, data if pairs else merge(data_of("any"), data), pairs)
    if "validation" not in whole.get("data", {}):
        templates = dict(whole.get("templates", {}))
        scored = {name for name, one in templates.items() if one.get("kind") == "evaluate"}
        for name, one in templates.items():
            if one.get("measure_on") == "validation":
                templates[name] = {key: one[key] for key in one if key != "measure_on"}
        kept = _without(whole.get("stages", {}), scored)
        whole = {**whole, "stages": kept, "templates": templates}
    return {**whole, "title": data.get("title", f"{own['title']}, {title}")}


def _without(stages: Mapping[str, Any], templates: Collection[str]) -> Settings:
    """Stages but for those that are like some templates, in rounds too."""
    kept = {name: one for name, one in stages.items() if one.get("like") not in templates}
    return {
        name: {**one, "stages": _without(one["stages"], templates)} if "stages" in one else one
        for name, one in kept.items()
    }


@functools.cache
def cells() -> dict[str, tuple[str, str]]:
    """Method and pair of every shipped recipe by its name, `METHOD-PAIR`.

    Example:
        >>> cells()["coarse-to-fine-carla-native"]
        ('coarse-to-fine', 'carla-native')
    """
    return {
        f"{method}-{pair}": (method, pair)
        for method in names("methods")
        for pair in read("methods", method).get("pairs") or {}
    }


# Names that recipes had when each was a file of its own.
FORMER = {
    "min-ent-carla": "min-ent-single-carla",
    "ensemble-carla": "ensemble-single-carla",
    "_native": "carla-native",
}


def laid(below: Settings, name: str, pairs: list[str]) -> tuple[Settings, list[str]]:
    """A shipped recipe, pair, fragment or method laid over settings that stand on some pairs.

    Raises:
        SegueError: there is none of that name.
    """
    known = FORMER.get(name, name)
    if known in cells():
        method, pair = cells()[known]
        return _cell(below, method, pair, after=pairs), _joined(pairs, pair)
    plain = known.removeprefix("_").replace("_", "-")
    if plain in names("pairs"):
        return merge(below, data_of(plain, after=pairs)), _joined(pairs, plain)
    if plain in names("fragments"):
        return merge(below, read("fragments", plain)), pairs
    if plain in names("methods"):
        return lay(plain, below, pairs, fragments=plain == name), pairs
    fix = f"{suggestion(name, list(cells()))}; or give the path of a YAML file"
    raise SegueError(f"no recipe is called {name!r}", fix=fix)


def _joined(pairs: list[str], pair: str) -> list[str]:
    return [*pairs, *(one for one in chain(pair) if one not in pairs)]
