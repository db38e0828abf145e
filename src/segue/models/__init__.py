"""Segmentation networks by name; a builder takes the number of classes, then keywords."""

from __future__ import annotations

from collections.abc import Callable

from segue.models.deeplab_v2 import deeplab_v2
from segue.models.deeplab_v2_caffe import deeplab_v2_caffe
from segue.models.segmenter import Output, Segmenter
from segue.models.smp import deeplab_v3_plus, segformer, upernet

MODELS: dict[str, Callable[..., Segmenter]] = {
    "deeplab_v2": deeplab_v2,
    "deeplab_v2_caffe": deeplab_v2_caffe,
    "deeplab_v3_plus": deeplab_v3_plus,
    "segformer": segformer,
    "upernet": upernet,
}

__all__ = ["MODELS", "Output", "Segmenter"]
