"""Recipes: checked settings of what is run, and what is built from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segue.parts import parse
from segue.recipe.checks import check_parts
from segue.recipe.files import resolve
from segue.recipe.recipe import Recipe

__all__ = ["Recipe", "load"]


def load(
    name: str | Path,
    overrides: Sequence[str] = (),
    *,
    on: str | Path | None = None,
    below: Sequence[str] = (),
) -> Recipe:
    """A recipe by the name of a shipped one or the path of a file, with `key=value` overrides.

    `on` is the pair of datasets, shipped or a file, that a method is put on. `below` names recipes
    that it is laid over, as if its `base` named them first.

    Raises:
        SegueError: it does not exist, is not YAML, or anything in it will not do; the message
            names the key and what would do.

    Example:
        >>> load("source-only-demo").stages["train"].kind
        'train'
        >>> load("coarse-to-fine", on="carla").name
        'coarse-to-fine-carla'
    """
    recipe = parse(Recipe, resolve(name, overrides, on=on, below=below), where="")
    check_parts(recipe)
    return recipe
