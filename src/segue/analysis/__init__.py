"""Analyses by name: each is one file that answers one question with `measure` and `save`."""

from __future__ import annotations

ANALYSES: dict[str, str] = {
    "layout-shift": "segue.analysis.layout_shift",
}
"""Name to module, for `importlib.import_module`: importing this table does not import torch."""
