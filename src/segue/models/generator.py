"""The network that redraws an image in the style of another domain."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from segue.errors import SegueError

SMALLEST = 8  # the residual blocks' padding mirrors a map of at least 2x2, a quarter of this


def generator(*, width: int = 64, blocks: int = 9) -> nn.Module:
    """CycleGAN's generator: RGB images to RGB images of the same size, both 0 to 1.

    CycleGAN (ICCV 2017), section 4 and appendix 7.2: a 7x7 convolution, two of stride 2, residual
    blocks, two fractionally strided convolutions, a 7x7 convolution and tanh; reflection padding,
    instance normalisation without parameters, weights drawn from N(0, 0.02). Layers are named as in
    its authors' code, so that their weights load.

    Args:
        width: channels at full resolution; twice and four times as many further in.
        blocks: residual blocks at a quarter of the resolution.

    Example:
        >>> import torch
        >>> generator(width=4, blocks=1)(torch.rand(1, 3, 33, 18)).shape
        torch.Size([1, 3, 33, 18])
    """
    layers = [nn.ReflectionPad2d(3), *_normalised(nn.Conv2d(3, width, 7))]
    for channels in (width, 2 * width):
        layers += _normalised(nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1))
    layers += [ResidualBlock(4 * width) for _ in range(blocks)]
    for channels in (4 * width, 2 * width):
        grown = nn.ConvTranspose2d(
            channels, channels // 2, 3, stride=2, padding=1, output_padding=1
        )
        layers += _normalised(grown)
    network = Generator(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())
    draw_weights(network)
    return network


class Generator(nn.Sequential):
    """Layers that map images to images; see `generator`."""

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W], 0 to 1, for any H and W from 8 on.

        Sides that are no multiple of 4 are mirrored beyond the bottom and the right, and cropped.
        """
        height, width = int(image.shape[-2]), int(image.shape[-1])
        if min(height, width) < SMALLEST:
            fix = f"use images of at least {SMALLEST}x{SMALLEST}"
            raise SegueError(f"is given {width}x{height} pixels", where="generator", fix=fix)
        x = F.pad(2 * image - 1, (0, -width % 4, 0, -height % 4), mode="reflect")
        for layer in self:
            x = layer(x)
        # Images keep their precision where the layers compute in another.
        return (x[..., :height, :width].to(image.dtype) + 1) / 2


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to what they are given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            *_normalised(nn.Conv2d(channels, channels, 3)),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W], the same size."""
        changed: Tensor = self.conv_block(x)
        return x + changed


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(convolution.out_channels), nn.ReLU()]


def draw_weights(network: nn.Module) -> None:
    """Draws the weights of every convolution from N(0, 0.02); biases begin at 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
