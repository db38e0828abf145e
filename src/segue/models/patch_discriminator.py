"""The discriminator of image translation, which judges overlapping patches."""

from __future__ import annotations

from torch import Tensor, nn

from segue.errors import SegueError
from segue.models.generator import draw_weights


def patch_discriminator(*, width: int = 64, layers: int = 3) -> nn.Module:
    """PatchGAN: one score for each 70x70 patch of an RGB image, 0 to 1.

    CycleGAN (ICCV 2017), section 4 and appendix 7.2: 4x4 convolutions with LeakyReLU 0.2, instance
    normalisation without parameters on all but the first and the last, weights from N(0, 0.02).

    Args:
        width: channels of the first layer, doubled by each that follows, up to eightfold.
        layers: how many halve the resolution; 3 see patches of 70x70.

    Example:
        >>> import torch
        >>> patch_discriminator(width=4)(torch.rand(1, 3, 64, 128)).shape
        torch.Size([1, 1, 6, 14])
    """
    widths = [width * min(2**index, 8) for index in range(layers + 1)]
    parts: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for index in range(1, layers + 1):
        stride = 2 if index < layers else 1
        parts += [
            nn.Conv2d(widths[index - 1], widths[index], 4, stride=stride, padding=1),
            nn.InstanceNorm2d(widths[index]),
            nn.LeakyReLU(0.2),
        ]
    network = PatchDiscriminator(*parts, nn.Conv2d(widths[-1], 1, 4, padding=1))
    draw_weights(network)
    return network


class PatchDiscriminator(nn.Sequential):
    """Convolutions that score each patch of an image; see `patch_discriminator`."""

    def forward(self, image: Tensor) -> Tensor:
        """Scores [B, 1, h, w], 1 for real and 0 for made, of images [B, 3, H, W], 0 to 1."""
        halvings = sum(isinstance(x, nn.Conv2d) and x.stride == (2, 2) for x in self)
        if min(image.shape[-2:]) < (smallest := 3 * 2**halvings):
            raise SegueError(
                f"is shown {image.shape[-1]}x{image.shape[-2]} pixels",
                where="patch_discriminator",
                fix=f"show it at least {smallest}x{smallest}, or give it fewer `layers`",
            )
        x = 2 * image - 1
        for layer in self:
            x = layer(x)
        return x
