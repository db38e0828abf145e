"""What a network is fed with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images of one domain with whatever is known about them.

    Args:
        image: [B, 3, H, W] float, RGB, 0 to 1. Weights bring their own normalisation.
        label: [B, H, W] int64 train ids, 255 is ignored; None where nothing is known.
        weight: [B, H, W] float, how much each pixel's label counts; None means 1.
        box: [B, 4] top, left, height, width of the part of the scene that the image shows, as
            fractions of the whole scene; None means all of it.
        names: the image files, for messages.

    Example:
        >>> batch = Batch(torch.zeros(2, 3, 4, 8), names=("a.png", "b.png"))
        >>> len(batch), batch.size
        (2, (4, 8))
    """

    image: Tensor
    label: Tensor | None = None
    weight: Tensor | None = None
    box: Tensor | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.image.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        tensors = {
            name: value.to(device, non_blocking=True)
            for name in ("image", "label", "weight", "box")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **tensors)
