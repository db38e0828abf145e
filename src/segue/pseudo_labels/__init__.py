"""Pseudo-label rules by name: streaming statistics, thresholds, a decision per pixel."""

from __future__ import annotations

from collections.abc import Callable

from segue.pseudo_labels.category_adaptive import CategoryAdaptive
from segue.pseudo_labels.class_balanced import ClassBalanced
from segue.pseudo_labels.confidence import Confidence
from segue.pseudo_labels.rule import Rule, Settled, decide, total

__all__ = ["RULES", "Rule", "Settled", "decide", "total"]

RULES: dict[str, Callable[..., Rule]] = {
    "confidence": Confidence,
    "class_balanced": ClassBalanced,
    "category_adaptive": CategoryAdaptive,
}
