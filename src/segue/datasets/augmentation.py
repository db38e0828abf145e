"""Random changes to an image and its label, drawn when the image is read.

Each takes a `tv_tensors.Image` and a `tv_tensors.Mask` (or None where labels are not read) and
returns both. They draw from torch's generator, which the reader seeds for each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from segue.errors import SegueError
from segue.label_space import IGNORE

Augmentation = Callable[[Any, Any], tuple[Any, Any]]


def augment(
    image: Tensor, label: Tensor | None, changes: Iterable[Augmentation], seed: int
) -> tuple[Tensor, Tensor | None]:
    """The image [3, H, W] and label [H, W], of bytes, after changes that the seed decides."""
    # The CPU's generator alone: torch.manual_seed would also restart the one that training uses
    # on a GPU, when reading happens in the training process.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        shown: Any = tv_tensors.Image(image)
        mask: Any = None if label is None else tv_tensors.Mask(label)
        for change in changes:
            shown, mask = change(shown, mask)
    return shown.as_subclass(Tensor), None if mask is None else mask.as_subclass(Tensor)


def random_crop(size: tuple[int, int]) -> Augmentation:
    """A window of `size` = (width, height) pixels; beyond the image black, and ignored.

    Raises:
        SegueError: a side is not positive.
    """
    if min(size) < 1:
        raise SegueError(f"crop of {size[0]}x{size[1]}", where="random_crop", fix="use 1 or more")
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
    crop: Augmentation = v2.RandomCrop((size[1], size[0]), pad_if_needed=True, fill=fill)
    return crop


def random_scale(low: float = 0.5, high: float = 2.0) -> Augmentation:
    """Both sides times one factor, drawn evenly from `low` to `high`; crop afterwards.

    Raises:
        SegueError: not 0 < low <= high.
    """
    if not 0 < low <= high:
        raise SegueError(
            f"scales from {low} to {high}", where="random_scale", fix="use 0 < low <= high"
        )
    return _RandomScale(low, high)


def flip(probability: float = 0.5) -> Augmentation:
    """Left and right exchanged.

    Raises:
        SegueError: the probability is not 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise SegueError(f"probability {probability}", where="flip", fix="use 0 to 1")
    mirror: Augmentation = v2.RandomHorizontalFlip(probability)
    return mirror


def colour_jitter(
    brightness: float = 0.5, contrast: float = 0.5, saturation: float = 0.5, hue: float = 0.2
) -> Augmentation:
    """Brightness, contrast and saturation times 1 ± the value, hue turned by ± the value.

    Raises:
        SegueError: a value is negative, or the hue above 0.5.
    """
    if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
        raise SegueError(
            "a strength is out of range", where="colour_jitter", fix="use 0 or more, hue to 0.5"
        )
    jitter: Augmentation = v2.ColorJitter(brightness, contrast, saturation, hue)
    return jitter


@dataclass(frozen=True)
class _RandomScale:
    low: float
    high: float

    def __call__(self, image: Any, label: Any) -> tuple[Any, Any]:
        factor = self.low + (self.high - self.low) * torch.rand(()).item()
        size = [max(1, round(side * factor)) for side in image.shape[-2:]]
        image = functional.resize(image, size, InterpolationMode.BICUBIC, antialias=True)
        if label is not None:
            # torchvision's own nearest for masks lies half a pixel beside the image
            plain = label.as_subclass(Tensor)[None]
            resized = functional.resize(plain, size, InterpolationMode.NEAREST_EXACT)
            label = tv_tensors.Mask(resized[0])
        return image, label


AUGMENTATIONS: Mapping[str, Callable[..., Augmentation]] = {
    "random_crop": random_crop,
    "random_scale": random_scale,
    "flip": flip,
    "colour_jitter": colour_jitter,
}
