"""Every loss that a recipe can name. To add one: write its file, add its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from segue.losses.adversarial import adversarial, default_networks
from segue.losses.cross_entropy import CrossEntropy
from segue.losses.entropy import MinEnt

# A loss is a term, or a function that returns several by name, of which the first takes the weight.
LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": CrossEntropy,
    "min_ent": MinEnt,
    "adversarial": adversarial,
}

# Networks that a loss brings along unless the recipe describes them.
LOSS_NETWORKS: dict[str, Callable[[Mapping[str, Any]], dict[str, dict[str, Any]]]] = {
    "adversarial": default_networks,
}
