"""Settings laid over others."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


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
