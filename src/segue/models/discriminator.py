"""The discriminator of output-space alignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from segue.errors import SegueError


def discriminator(
    num_classes: int,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    last: Literal["4x4", "3x3"] = "4x4",
) -> nn.Module:
    """Five 4x4 convolutions of stride 2 with LeakyReLU 0.2 between them and no normalisation.

    AdaptSegNet (CVPR 2018), section 3.2, and all that build on it.

    Args:
        num_classes: channels of the input, one a class.
        widths: channels of all but the last layer, whose one channel is the domain's logit.
        last: the kernel of the last layer; `3x3` has stride 1, so that the map of logits is 16
            times smaller than the input instead of 32, as in category-adaptive thresholds
            (ICASSP 2021), section 3.2.

    Example:
        >>> import torch
        >>> discriminator(19, widths=(8, 8))(torch.zeros(1, 19, 64, 128)).shape
        torch.Size([1, 1, 8, 16])
    """
    layers: list[nn.Module] = []
    channels = num_classes
    for width in widths:
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = width
    kernel, stride = (4, 2) if last == "4x4" else (3, 1)
    return Discriminator(*layers, nn.Conv2d(channels, 1, kernel, stride=stride, padding=1))


class Discriminator(nn.Sequential):
    """Convolutions that score each place of a map; see `discriminator`."""

    def forward(self, shown: Tensor) -> Tensor:
        """Domain logits, [B, 1, h, w], of maps [B, C, H, W]."""
        strides = [layer.stride[0] for layer in self if isinstance(layer, nn.Conv2d)]
        if min(shown.shape[-2:]) < (smallest := math.prod(strides)):
            raise SegueError(
                f"is shown {shown.shape[-1]}x{shown.shape[-2]} pixels",
                where="discriminator",
                fix=f"show it at least {smallest}x{smallest}: a larger `patch` or image size",
            )
        for layer in self:
            shown = layer(shown)
        return shown
