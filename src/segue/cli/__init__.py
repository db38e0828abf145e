"""The command line."""

from __future__ import annotations

from segue.cli.commands import main

__all__ = ["main"]
