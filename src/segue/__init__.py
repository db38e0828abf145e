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
    from segue.inference.evaluation import evaluate
    from segue.inference.model import Ensemble
    from segue.inference.prediction import Prediction
    from segue.recipe import load as load_recipe
    from segue.running.run import run
    from segue.work_dir import load

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
    "Ensemble": ("segue.inference.model", "Ensemble"),
    "Prediction": ("segue.inference.prediction", "Prediction"),
    "SegueError": ("segue.errors", "SegueError"),
    "evaluate": ("segue.inference.evaluation", "evaluate"),
    "export": ("segue.exporting", "export"),
    "load": ("segue.work_dir", "load"),
    "load_recipe": ("segue.recipe", "load"),
    "run": ("segue.running.run", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segue' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
