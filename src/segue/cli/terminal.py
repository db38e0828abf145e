"""What all commands share: where people read, and parts of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Where people read: as wide as the terminal, and silent in all processes but the first."""
    from rich.console import Console

    wide = sys.stdout.isatty()
    follows = os.environ.get("RANK", "0") != "0"
    # Names of classes, files and stages may look like markup.
    return Console(width=None if wide else 100, quiet=follows, markup=False, emoji=False)


def use(files: list[Path] | None) -> None:
    """Adds the parts in these Python files to Segue's own."""
    from segue.recipe import plugins

    plugins.load(files or ())
