"""Stages by kind: files in, files out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segue.stages import centres, evaluate, groups, pseudo_label, train, translate

STAGES: dict[str, Callable[..., Any]] = {
    "translate": translate.run,
    "train": train.run,
    "pseudo_label": pseudo_label.run,
    "centres": centres.run,
    "groups": groups.run,
    "evaluate": evaluate.run,
}
