"""Every kind of network by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from segue.models import MODELS
from segue.models.centres import centres
from segue.models.conditional_discriminator import conditional_discriminator
from segue.models.discriminator import discriminator
from segue.models.generator import generator
from segue.models.grouping import dff_grouping, grouping, k_means_grouping
from segue.models.patch_discriminator import patch_discriminator
from segue.models.style_discriminator import style_discriminator

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **MODELS,
    "discriminator": discriminator,
    "conditional_discriminator": conditional_discriminator,
    "style_discriminator": style_discriminator,
    "grouping": grouping,
    "k_means_grouping": k_means_grouping,
    "dff_grouping": dff_grouping,
    "centres": centres,
    "generator": generator,
    "patch_discriminator": patch_discriminator,
}
