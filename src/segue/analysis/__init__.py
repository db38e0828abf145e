"""Analyses by name: each is one file that answers one question with `measure` and `draw`."""

from __future__ import annotations

ANALYSES: dict[str, str] = {
    "layout-shift": "segue.analysis.layout_shift",
    "entropy": "segue.analysis.entropy",
    "confusion": "segue.analysis.confusion",
    "translations": "segue.analysis.translations",
    "kept": "segue.analysis.pseudo_labels",
    "centres": "segue.analysis.centres",
    "groups": "segue.analysis.group_maps",
    "tsne": "segue.analysis.tsne",
    "grouping-kinds": "segue.analysis.grouping_kinds",
    "k-sweep": "segue.analysis.sweep_curve",
    "patch-sweep": "segue.analysis.sweep_curve",
}
"""Command to module, for `importlib.import_module`: importing this table does not import torch."""
