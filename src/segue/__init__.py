"""Segue adapts a semantic segmentation network from labelled images to unlabelled ones.

Example:
    >>> import segue
    >>> segue.load_recipe("source-only-demo").title
    'Source only, demo worlds'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.errors import SegueError
    from segue.exporting import export
    from segue.model import Ensemble, load
    from segue.notebook import Prediction
    from segue.recipe import load as load_recipe
    from segue.running import run
    from segue.stages.evaluate import evaluate

__version__ = "0.1.0"
__all__ = [
    "Ensemble",
    "Prediction",
    "SegueError",
    "evaluate",
    "export",
    "load",
    "load_recipe",
    "run",
]

# Imported when first used: `segue --help` must not wait for torch.
_HOMES = {
    "Ensemble": ("segue.model", "Ensemble"),
    "Prediction": ("segue.notebook", "Prediction"),
    "SegueError": ("segue.errors", "SegueError"),
    "evaluate": ("segue.stages.evaluate", "evaluate"),
    "export": ("segue.exporting", "export"),
    "load": ("segue.model", "load"),
    "load_recipe": ("segue.recipe", "load"),
    "run": ("segue.running", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segue' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
