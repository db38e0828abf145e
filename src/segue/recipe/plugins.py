"""Own parts from Python files that a command line names with `--plugin`, never a recipe."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from segue.errors import SegueError

# The tables that a plugin may add to, and where they are.
TABLES = {
    "LOSSES": "segue.losses",
    "LOSS_NETWORKS": "segue.losses",
    "MODELS": "segue.models",
    "NETWORKS": "segue.models.table",
    "OPTIMISERS": "segue.training.optimisers",
    "SCHEDULES": "segue.training.optimisers",
    "DATASETS": "segue.datasets",
    "AUGMENTATIONS": "segue.datasets.augmentation",
    "VIEWS": "segue.views",
    "TRANSLATIONS": "segue.translation",
    "RULES": "segue.pseudo_labels",
    "GROUPINGS": "segue.models.grouping_fit",
}

_loaded: dict[Path, str] = {}  # imports belong to the process, and so does what was imported


def load(files: Sequence[Path]) -> None:
    """Imports Python files and adds the parts in their tables to Segue's, for this process.

    Args:
        files: each defines some of `TABLES` as a dict from name to part.

    Raises:
        SegueError: no such file, a name that Python or Segue has already, or it does not run.
    """
    for file in files:
        path = file.resolve()
        if path in _loaded:
            continue
        module = _imported(path, file)
        told = [name for name in TABLES if hasattr(module, name)]
        if not told:
            fix = f"define one of {', '.join(TABLES)}"
            raise SegueError("adds no parts", where=file, fix=fix)
        for name in told:
            _add(name, getattr(module, name), file)
        _loaded[path] = hashlib.sha256(path.read_bytes()).hexdigest()


def loaded() -> dict[str, str]:
    """What was loaded: absolute path to SHA-256 of the file."""
    return {str(path): digest for path, digest in _loaded.items()}


def _imported(path: Path, file: Path) -> ModuleType:
    if path.suffix != ".py" or not path.is_file():
        raise SegueError("no such plugin", where=file, fix="give the path of a Python file")
    name = path.stem
    other = find_spec(name) if name.isidentifier() else None
    if not name.isidentifier() or (other is not None and Path(other.origin or "") != path):
        fix = "give it a name of its own, as my_losses.py"
        raise SegueError(f"no module can be called {name!r} here", where=file, fix=fix)
    # Processes that read images take the path along, and import by name what they are sent.
    sys.path.append(str(path.parent))
    invalidate_caches()
    try:
        return import_module(name)
    except Exception as error:
        sys.path.remove(str(path.parent))
        lines = [one.lineno for one in traceback.extract_tb(error.__traceback__)
                 if one.filename == str(path)]  # fmt: skip
        line = lines[-1] if lines else getattr(error, "lineno", None)
        where = f"{file}, line {line}" if line else file
        told = f"{type(error).__name__}: {error}"
        raise SegueError(told, where=where, fix="mend the plugin") from error


def _add(name: str, parts: Any, file: Path) -> None:
    if not isinstance(parts, dict) or not all(
        isinstance(key, str) and callable(part) for key, part in parts.items()
    ):
        fix = "map names to functions or classes"
        raise SegueError(f"{name} is no table of parts", where=file, fix=fix)
    tables = [getattr(import_module(TABLES[name]), name)]
    if name == "MODELS":  # which are networks too
        tables.append(import_module(TABLES["NETWORKS"]).NETWORKS)
    for table in tables:
        taken = sorted(table.keys() & parts.keys())
        if taken:
            fix = "choose another name"
            raise SegueError(f"{name} has {taken[0]!r} already", where=file, fix=fix)
        table.update(parts)
