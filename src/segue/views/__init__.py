"""Every view that a recipe can name. To add one: write its file, add its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segue.views.generated import Generated
from segue.views.image_pool import ImagePool
from segue.views.jittered import Jittered
from segue.views.translated import translated

VIEWS: dict[str, Callable[..., Any]] = {
    "translated": translated,
    "jittered": Jittered,
    "generated": Generated,
    "image_pool": ImagePool,
}
