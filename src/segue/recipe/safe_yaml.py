"""YAML from outside: plain values alone, never objects, and nothing that unfolds without end."""

from __future__ import annotations

import re
from typing import Any

import yaml

from segue.errors import SegueError

DEEPEST = 60  # mappings and lists inside each other
MOST_VALUES = 100_000  # once every alias is written out

# libyaml's parser, where PyYAML was built with it, takes a tenth of the time.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_Safe):  # type: ignore[misc]
    """YAML by the core schema of version 1.2, that refuses a key given twice.

    `no`, `on`, `1:30` and `2020-01-01` are text, 011 is eleven and 0o11 nine, 1e-3 a number. Of
    1.1 the merge key `<<` stays.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, each key once, however it is spelled."""
        seen: dict[Any, str] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            merges = key_node.tag == "tag:yaml.org,2002:merge"
            key = "<<" if merges else self.construct_object(key_node)
            if key in seen:
                as_well = f", as {seen[key]!r} before" if seen[key] != key_node.value else ""
                told = f"the key {key_node.value!r} stands twice{as_well}"
                raise yaml.constructor.ConstructorError(None, None, told, key_node.start_mark)
            seen[key] = key_node.value
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A number in tens, or behind 0o and 0x in eights and sixteens."""
        text = node.value
        for mark, base in (("0o", 8), ("0x", 16)):
            if text.startswith(mark):
                return int(text[2:], base)
        return int(text)


class Dumper(yaml.SafeDumper):
    """Its other side: what version 1.1 or 1.2 reads as anything but text is quoted."""


_CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|"
        r"\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
Loader.yaml_implicit_resolvers = {}
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
for _tag, (_pattern, _first) in _CORE.items():
    for _side in (Loader, Dumper):
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
        )


def parsed(text: str | bytes, *, where: object) -> Any:
    """The value that a YAML document writes: text, numbers, lists and mappings.

    Raises:
        SegueError: it is not YAML, asks for objects, or unfolds to too much.

    Example:
        >>> parsed("{lr: 1e-3, size: [64, 32]}", where="here")
        {'lr': 0.001, 'size': [64, 32]}
        >>> parsed("!!python/object/apply:os.getcwd []", where="recipe.yaml")
        Traceback (most recent call last):
        segue.errors.SegueError: recipe.yaml: line 1: `!!python/object/apply:os.getcwd` asks for \
an object, and a recipe holds plain values alone; mend the YAML
    """
    try:
        _refuse_depth(text, where)
        value = yaml.load(text, Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SegueError(_problem(error), where=where, fix="mend the YAML") from None
    # A date that is none, a number of 5,000 digits, `!!bool maybe`: each fails in its own way.
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        reason = str(error).partition(";")[0]
        raise SegueError(f"not YAML ({reason})", where=where, fix="mend the YAML") from None
    if _size(value, {}) > MOST_VALUES:
        fix = "write it out without aliases (*)"
        raise SegueError(f"unfolds to more than {MOST_VALUES:,} values", where=where, fix=fix)
    return value


def parsed_override(text: str, *, where: object) -> Any:
    """The value of a `key=value`, by the same rules; what looks like a comment belongs to it.

    Raises:
        SegueError: as `parsed`.

    Example:
        >>> parsed_override("/data/run #3", where="root"), parsed_override("011", where="seed")
        ('/data/run #3', 11)
    """
    if "#" in text:
        try:
            node = yaml.compose(text, Loader)
        except yaml.YAMLError:
            return parsed(text, where=where)
        rest = text if node is None else text[node.end_mark.index :]
        if rest.strip():
            if node is not None and (not isinstance(node, yaml.ScalarNode) or node.style):
                raise SegueError("a comment follows the value", where=where, fix="quote all of it")
            return text.strip()
    return parsed(text, where=where)


def _problem(error: Exception) -> str:
    """What is wrong, and in which line."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    tag = re.search(r"constructor for the tag 'tag:yaml.org,2002:(.*)'", problem)
    if tag is not None:
        problem = f"`!!{tag[1]}` asks for an object, and a recipe holds plain values alone"
    context = getattr(error, "context", None)
    line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
    return (f"line {line}: " if line else "") + (f"{context}, {problem}" if context else problem)


def _refuse_depth(text: str | bytes, where: object) -> None:
    """Looks how deep it nests before it is loaded: libyaml ends the process at some depth."""
    depth = 0
    for event in yaml.parse(text, Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1 if event.start_mark else 1
            told = f"line {line}: nests more than {DEEPEST} deep"
            raise SegueError(told, where=where, fix="mend the YAML")


def _size(value: Any, known: dict[int, float]) -> float:
    """How many values it holds with aliases written out, infinite where one is inside itself."""
    if not isinstance(value, dict | list | tuple):
        return 1
    if id(value) not in known:
        known[id(value)] = float("inf")
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(one, known) for one in inner)
    return known[id(value)]
