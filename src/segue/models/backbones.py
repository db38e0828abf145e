"""Encoders from timm: any of its models as a list of feature maps."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import timm
from torch import Tensor, nn

from segue.errors import SegueError
from segue.models.normalisation import NORMALISATIONS, Normalisation, NormalisationName
from segue.models.weights import load_weights

Weights = Literal["hub"] | Path | None
_Built = TypeVar("_Built")

# What timm's models raise for an argument that they do not know or do not support.
_UNSUPPORTED = (TypeError, AssertionError, NotImplementedError, ValueError, RuntimeError)


class TimmStages(nn.Module):
    """The last four feature maps of a timm model, strides growing.

    Args:
        name: any timm model that can give features.
        output_stride: the stride to stop at, by dilation; models that cannot keep their own.
        weights: "hub" for timm's own, a file with timm's names, or None for random ones.

    Raises:
        SegueError: unknown name, no features, hub out of reach, weights that do not fit.

    Example:
        >>> encoder = TimmStages("test_resnet", 8, None)
        >>> encoder.strides
        (4, 8, 8, 8)
    """

    def __init__(self, name: str, output_stride: int, weights: Weights) -> None:
        super().__init__()
        check_timm_name(name)
        model, self.needs_divisible_sizes = from_hub(
            lambda: _create(name, output_stride, weights == "hub"), name, weights
        )
        self.model: nn.Module = model
        self.channels: tuple[int, ...] = tuple(model.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(model.feature_info.reduction())
        self._channels_last = getattr(model, "output_fmt", None) == "NHWC"
        if isinstance(weights, Path):
            load_weights(self, weights, minimum=1.0)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image [B, 3, H, W] -> four maps [B, C, h, w]."""
        maps: list[Tensor] = self.model(image)
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if self._channels_last else maps


def _create(name: str, output_stride: int, pretrained: bool) -> tuple[Any, bool]:
    """The model, and whether it takes only multiples of its stride (patch embeddings do)."""
    attempts: list[tuple[dict[str, object], bool]] = [
        ({"output_stride": output_stride}, False),
        ({"dynamic_img_size": True}, True),
        ({}, False),
    ]
    last: Exception | None = None
    for arguments, divisible in attempts:
        try:
            model = timm.create_model(
                name,
                features_only=True,
                out_indices=(-4, -3, -2, -1),
                pretrained=pretrained,
                **arguments,
            )
        except _UNSUPPORTED as error:
            last = error
        else:
            return model, divisible
    raise SegueError(
        f"timm's {name} gives no four feature maps ({last})",
        where="backbone",
        fix="choose one of `timm.list_models()` that supports features_only",
    ) from last


def check_timm_name(name: str) -> None:
    """Raise a SegueError with near names where timm has no such model."""
    if timm.is_model(
        name
    ):  # never `hf-hub:` or `local-dir:`, which look elsewhere for what to build
        return
    near = difflib.get_close_matches(name, timm.list_models(), 3)
    raise SegueError(
        f"timm has no model {name!r}",
        where="backbone",
        fix=f"did you mean {' or '.join(near)}?" if near else "see `timm.list_models()`",
    )


def from_hub(build: Callable[[], _Built], name: str, weights: Weights) -> _Built:
    """Run `build`; where it is to fetch weights and cannot, say what to do instead."""
    if weights != "hub":
        return build()
    try:
        return build()
    except SegueError:
        raise
    # Each transport of the hub has errors of its own, with no common base.
    except Exception as error:
        raise SegueError(
            f"the weights of {name} cannot be fetched ({type(error).__name__})",
            where="weights: hub",
            fix="check the connection, or download the file elsewhere and give its path as "
            "`weights`",
        ) from error


def normalisation_for(
    chosen: NormalisationName | None, timm_name: str, weights: Weights
) -> Normalisation:
    """The one chosen, else that of timm's weights of this name, else ImageNet's."""
    if chosen is not None:
        return NORMALISATIONS[chosen]
    config = timm.models.get_pretrained_cfg(timm_name) if weights is not None else None
    if config is None:
        return NORMALISATIONS["imagenet"]
    for known in NORMALISATIONS.values():
        if (known.mean, known.std) == (tuple(config.mean), tuple(config.std)):
            return known
    return Normalisation(f"of {timm_name}", tuple(config.mean), tuple(config.std))
