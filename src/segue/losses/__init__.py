"""Every loss that a recipe can name. To add one: write its file, add its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from segue.losses import grouping, style, translation, triplet
from segue.losses.adversarial import adversarial, default_networks
from segue.losses.conditional_adversarial import conditional_adversarial
from segue.losses.conditional_adversarial import default_networks as conditional_networks
from segue.losses.cross_entropy import CrossEntropy
from segue.losses.entropy import MinEnt, RobustEntropy
from segue.losses.grouping import ClassEquivalence, GroupConsistency, GroupOrthogonality
from segue.losses.style import StyleGram, StyleMoments, style_adversarial
from segue.losses.translation import Cycle, Identity, Semantic, least_squares_adversarial
from segue.losses.triplet import CategoryTriplet

# A loss is a term, or a function that returns several by name, of which the first takes the weight.
LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": CrossEntropy,
    "min_ent": MinEnt,
    "robust_entropy": RobustEntropy,
    "adversarial": adversarial,
    "conditional_adversarial": conditional_adversarial,
    "group_consistency": GroupConsistency,
    "group_orthogonality": GroupOrthogonality,
    "class_equivalence": ClassEquivalence,
    "category_triplet": CategoryTriplet,
    "style_adversarial": style_adversarial,
    "style_gram": StyleGram,
    "style_moments": StyleMoments,
    "least_squares_adversarial": least_squares_adversarial,
    "cycle": Cycle,
    "identity": Identity,
    "semantic": Semantic,
}

# Networks that a loss brings along unless the recipe describes them.
LOSS_NETWORKS: dict[str, Callable[[Mapping[str, Any]], dict[str, dict[str, Any]]]] = {
    "adversarial": default_networks,
    "conditional_adversarial": conditional_networks,
    "group_consistency": grouping.default_networks,
    "group_orthogonality": grouping.default_networks,
    "class_equivalence": grouping.default_networks,
    "category_triplet": triplet.default_networks,
    "style_adversarial": style.default_networks,
    "least_squares_adversarial": translation.adversarial_networks,
    "cycle": translation.cycle_networks,
    "identity": translation.generator_network,
    "semantic": translation.generator_network,
}
