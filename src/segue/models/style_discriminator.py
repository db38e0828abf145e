"""The discriminator of channel statistics."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segue.errors import SegueError


def style_discriminator(*, widths: Sequence[int] = (64, 128, 256)) -> nn.Module:
    """Four 1-D convolutions of kernel 4 and stride 2 with LeakyReLU 0.2 between them.

    Category-adaptive thresholds (ICASSP 2021), section 3.2.

    Args:
        widths: channels of all but the last layer, whose one channel is the domain's logit.

    Example:
        >>> import torch
        >>> style_discriminator(widths=(8, 8, 8))(torch.zeros(2, 1, 256)).shape
        torch.Size([2, 1, 16])
    """
    layers: list[nn.Module] = []
    channels = 1
    for width in widths:
        layers += [nn.Conv1d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = width
    return StyleDiscriminator(*layers, nn.Conv1d(channels, 1, 4, stride=2, padding=1))


class StyleDiscriminator(nn.Sequential):
    """Convolutions along the channels of a style; see `style_discriminator`."""

    def forward(self, shown: Tensor) -> Tensor:
        """Domain logits, [B, 1, places], of channel statistics [B, 1, channels].

        Raises:
            SegueError: there are fewer channels than the strides leave anything of.
        """
        smallest = 2 ** sum(isinstance(layer, nn.Conv1d) for layer in self)
        if shown.shape[-1] < smallest:
            raise SegueError(
                f"is shown {shown.shape[-1]} channels",
                where="style discriminator",
                fix=f"show it at least {smallest}: a later feature, or give it fewer `widths`",
            )
        for layer in self:
            shown = layer(shown)
        return shown
