"""Stages by kind: files in, files out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segue.stages import evaluate, train

STAGES: dict[str, Callable[..., Any]] = {"train": train.run, "evaluate": evaluate.run}
