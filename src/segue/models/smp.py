"""Decoders from segmentation-models-pytorch on any encoder that it or timm has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch
import timm

from segue.errors import SegueError
from segue.models.backbones import Weights, check_timm_name, from_hub, normalisation_for
from segue.models.batch_norm import BatchNormMode
from segue.models.normalisation import NormalisationName
from segue.models.segmenter import Segmenter
from segue.models.weights import load_weights


def deeplab_v3_plus(
    num_classes: int,
    *,
    encoder: str = "resnet101",
    output_stride: Literal[8, 16] = 16,
    weights: Weights = None,
    normalisation: NormalisationName | None = None,
    align_corners: bool = False,
    batch_norm: BatchNormMode = "running",
) -> Segmenter:
    """DeepLab-v3+ (Chen et al., ECCV 2018); "penultimate" has 256 channels at stride 4.

    Args:
        num_classes: C.
        encoder: a timm model, or one of segmentation-models-pytorch's own.
        output_stride: of the encoder, by dilation.
        weights: of the encoder: "hub", a file, or None for random ones.
        normalisation: None takes that of the weights.
        align_corners: how logits are resized.
        batch_norm: see `segue.models.batch_norm`.

    Raises:
        SegueError: unknown or unsuitable encoder, hub out of reach, weights that do not fit.

    Example:
        >>> import torch
        >>> network = deeplab_v3_plus(5, encoder="test_resnet").eval()
        >>> tuple(network(torch.zeros(1, 3, 64, 96)).features["penultimate"].shape)
        (1, 256, 16, 24)
    """
    return _compose(
        segmentation_models_pytorch.DeepLabV3Plus,
        f"DeepLab-v3+, {encoder}, stride {output_stride}",
        encoder,
        weights,
        normalisation,
        num_classes=num_classes,
        align_corners=align_corners,
        batch_norm=batch_norm,
        arguments={"encoder_output_stride": output_stride},
    )


def segformer(
    num_classes: int,
    *,
    encoder: str = "mit_b5",
    weights: Weights = None,
    normalisation: NormalisationName | None = None,
    align_corners: bool = False,
    batch_norm: BatchNormMode = "batch",
) -> Segmenter:
    """SegFormer (Xie et al., NeurIPS 2021); "penultimate" has 256 channels at stride 4.

    Args:
        num_classes: C.
        encoder: a timm model, or one of segmentation-models-pytorch's own.
        weights: of the encoder: "hub", a file, or None for random ones.
        normalisation: None takes that of the weights.
        align_corners: how logits are resized.
        batch_norm: see `segue.models.batch_norm`.

    Raises:
        SegueError: unknown or unsuitable encoder, hub out of reach, weights that do not fit.

    Example:
        >>> segformer(5, encoder="test_resnet").num_classes
        5
    """
    return _compose(
        segmentation_models_pytorch.Segformer,
        f"SegFormer, {encoder}",
        encoder,
        weights,
        normalisation,
        num_classes=num_classes,
        align_corners=align_corners,
        batch_norm=batch_norm,
    )


def upernet(
    num_classes: int,
    *,
    encoder: str = "convnext_tiny",
    weights: Weights = None,
    normalisation: NormalisationName | None = None,
    align_corners: bool = False,
    batch_norm: BatchNormMode = "tracking",
) -> Segmenter:
    """UPerNet (Xiao et al., ECCV 2018); "penultimate" has 256 channels at stride 4.

    Its pyramid pools to single pixels, so batches of one have no batch statistics there: hence
    `tracking`.

    Args:
        num_classes: C.
        encoder: a timm model, or one of segmentation-models-pytorch's own.
        weights: of the encoder: "hub", a file, or None for random ones.
        normalisation: None takes that of the weights.
        align_corners: how logits are resized.
        batch_norm: see `segue.models.batch_norm`.

    Raises:
        SegueError: unknown or unsuitable encoder, hub out of reach, weights that do not fit.

    Example:
        >>> upernet(5, encoder="test_resnet").num_classes
        5
    """
    return _compose(
        segmentation_models_pytorch.UPerNet,
        f"UPerNet, {encoder}",
        encoder,
        weights,
        normalisation,
        num_classes=num_classes,
        align_corners=align_corners,
        batch_norm=batch_norm,
    )


def _compose(
    architecture: Callable[..., Any],
    name: str,
    encoder: str,
    weights: Weights,
    normalisation: NormalisationName | None,
    *,
    num_classes: int,
    align_corners: bool,
    batch_norm: BatchNormMode,
    arguments: dict[str, object] | None = None,
) -> Segmenter:
    in_timm = timm.is_model(encoder)
    if encoder not in segmentation_models_pytorch.encoders.encoders:
        check_timm_name(encoder)
    fetched = True if in_timm else "imagenet"

    def build(**extra: bool) -> Any:
        # Upsampling 1: `Segmenter.upsample` knows the target size, the head does not.
        return architecture(
            encoder_name=f"tu-{encoder}" if in_timm else encoder,
            encoder_weights=fetched if weights == "hub" else None,
            classes=num_classes,
            upsampling=1,
            **extra,
            **(arguments or {}),
        )

    def build_for_any_size() -> Any:
        # Windowed transformers must be told that sizes vary; other models know no such word.
        try:
            return build(dynamic_img_size=True)
        except TypeError:
            return build()

    try:
        model = from_hub(build_for_any_size if in_timm else build, encoder, weights)
    except (ValueError, TypeError, RuntimeError, KeyError, AssertionError) as error:
        raise SegueError(
            f"{architecture.__name__} cannot stand on {encoder} ({error})",
            where="encoder",
            fix="choose an encoder with strides 4, 8, 16, 32, or another output_stride",
        ) from error
    if isinstance(weights, Path):
        load_weights(model.encoder, weights, minimum=1.0)
    return Segmenter(
        model.encoder,
        {"main": model.segmentation_head},
        decoder=model.decoder,
        num_classes=num_classes,
        normalisation=normalisation_for(normalisation, encoder, weights),
        align_corners=align_corners,
        divisor=model.encoder.output_stride,
        batch_norm=batch_norm,
        freeze_affine=weights is not None,
        name=name,
    )
