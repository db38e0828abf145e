"""The discriminator of a map under a condition: of their outer product, which is never built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from segue.errors import SegueError
from segue.models.discriminator import discriminator
from segue.runtime.precision import full_precision


class ConditionalDiscriminator(nn.Module):
    """Scores the outer product of features and a condition; see `conditional_discriminator`.

    Args:
        layers: a discriminator of C * C channels, of which the first has weights
            [width, C * C, 4, 4], channel i * C + j being feature i times condition j.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Domain logits, [B, 1, h, w], of features [B, C, H, W] and conditions [B, C].

        Raises:
            SegueError: the map is smaller than the strides leave anything of.
        """
        return self.score(self.blocks(features), condition)

    def blocks(self, maps: Tensor) -> Tensor:
        """Padded maps [B, C, H, W] by blocks of 2x2 pixels: [B, C, 4, H // 2 + 1, W // 2 + 1].

        Raises:
            SegueError: the map is smaller than the strides leave anything of.
        """
        height, width = maps.shape[-2:]
        smallest = 2 ** sum(isinstance(layer, nn.Conv2d) for layer in self.layers)
        if min(height, width) < smallest:
            raise SegueError(
                f"is shown {width}x{height} pixels",
                where="conditional discriminator",
                fix=f"show it at least {smallest}x{smallest}: a larger `patch` or image size",
            )
        # Of an odd side, the stride never reaches the padding at the end.
        padded = functional.pad(maps, (1, 1 - width % 2, 1, 1 - height % 2))
        blocks = functional.pixel_unshuffle(padded, 2)
        return blocks.view(*maps.shape[:2], 4, *blocks.shape[2:])

    def score(self, features: Tensor, condition: Tensor) -> Tensor:
        """Domain logits of features as `blocks` gives them, and conditions [B, C].

        For what is shown in many products, `blocks` is taken of the factors once.
        """
        first, *others = self.layers
        shown = _each_with_its_own(cast(nn.Conv2d, first), features.flatten(1, 2), condition)
        for layer in others:
            shown = layer(shown)
        return shown


def _each_with_its_own(first: nn.Conv2d, blocks: Tensor, condition: Tensor) -> Tensor:
    """The first convolution, with one kernel of C channels for each image.

    4x4 with stride 2 over pixels is 2x2 with stride 1 over their blocks: three quarters of the
    time on a CPU, exact up to rounding.
    """
    kernels = fold(first.weight, condition)
    images, width, channels = kernels.shape[:3]
    # As pixels lie in their blocks: [B, width, C * 4, 2, 2].
    kernels = kernels.view(images, width, channels, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5)
    kernels = kernels.flatten(2, 4)
    # Autocast would give what the features learn from to bfloat16.
    with full_precision(blocks):
        # One by one: a grouped convolution takes a third longer on a CPU.
        shown = [
            functional.conv2d(image, kernel, first.bias)
            for image, kernel in zip(
                torch.split(blocks.to(kernels.dtype), 1), kernels.unbind(), strict=True
            )
        ]
    return shown[0] if len(shown) == 1 else torch.cat(shown)


def fold(weight: Tensor, condition: Tensor) -> Tensor:
    """Kernels for features alone, the condition summed into them: sum over j of Q_j W_ij.

    conv(F x Q; W) = conv(F; sum over j of Q_j W_j), exact up to rounding.

    Args:
        weight: [width, C * C, height, width], channel i * C + j being feature i, condition j.
        condition: [B, C].

    Returns:
        [B, width, C, height, width].

    Example:
        >>> weight = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
        >>> fold(weight, torch.tensor([[1.0, 0.0], [1.0, 10.0]])).flatten(1).tolist()
        [[1.0, 3.0], [21.0, 43.0]]
    """
    channels = condition.shape[1]
    split = weight.view(len(weight), channels, channels, *weight.shape[2:])
    # Autocast would take this sum to bfloat16.
    with full_precision(weight):
        return torch.einsum("oijyx,bj->boiyx", split, condition.to(weight.dtype))


def conditional_discriminator(
    num_classes: int, *, widths: Sequence[int] = (64, 128, 256, 512)
) -> ConditionalDiscriminator:
    """Five 4x4 convolutions of stride 2 on C * C channels, as `discriminator`, for two factors.

    Cross-domain grouping (AAAI 2021), "Discriminator" and equation 4. Weights are those of the
    plain network on all C * C channels, and start as those do.

    Args:
        num_classes: C, channels of the features and of the condition.
        widths: channels of all but the last layer, whose one channel is the domain's logit.

    Example:
        >>> network = conditional_discriminator(19, widths=(8, 8))
        >>> network.layers[0].weight.shape
        torch.Size([8, 361, 4, 4])
        >>> network(torch.zeros(2, 19, 64, 128), torch.ones(2, 19)).shape
        torch.Size([2, 1, 8, 16])
    """
    layers = cast(nn.Sequential, discriminator(num_classes**2, widths=widths))
    return ConditionalDiscriminator(layers)
