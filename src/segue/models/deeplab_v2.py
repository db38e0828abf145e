"""DeepLab-v2 on any timm backbone."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn

from segue.models.atrous import atrous_sum
from segue.models.backbones import TimmStages, Weights, normalisation_for
from segue.models.batch_norm import BatchNormMode
from segue.models.normalisation import NormalisationName
from segue.models.segmenter import Segmenter

DILATIONS = (6, 12, 18, 24)


class AtrousHead(nn.Module):
    """The sum of dilated 3x3 convolutions ("ASPP-L" without its hidden layers).

    Chen et al., DeepLab (TPAMI 2018), section 3.2, as AdaptSegNet and its heirs simplify it.

    Args:
        channels: of the feature map.
        num_classes: C.
        branches: how many of the dilations 6, 12, 18, 24 are summed. AdaptSegNet's public code
            returns after the second; ADVENT's and BDL's sum all four.

    Example:
        >>> import torch
        >>> AtrousHead(8, 5)(torch.zeros(2, 8, 9, 17)).shape
        torch.Size([2, 5, 9, 17])
    """

    def __init__(self, channels: int, num_classes: int, branches: int = 4) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for dilation in DILATIONS[:branches]:
            branch = nn.Conv2d(channels, num_classes, 3, padding=dilation, dilation=dilation)
            nn.init.normal_(branch.weight, 0.0, 0.01)
            self.branches.append(branch)

    def forward(self, feature: Tensor) -> Tensor:
        """Feature [B, channels, h, w] -> logits [B, C, h, w]."""
        branches = [cast(nn.Conv2d, branch) for branch in self.branches]
        weights = [branch.weight for branch in branches]
        biases = [cast(Tensor, branch.bias) for branch in branches]
        return atrous_sum(feature, weights, biases, DILATIONS[: len(branches)])


def atrous_heads(
    channels: tuple[int, ...], num_classes: int, *, second_head: bool, branches: int = 4
) -> dict[str, nn.Module]:
    """Heads by name for an encoder whose last stages have these channels."""
    heads: dict[str, nn.Module] = {"main": AtrousHead(channels[-1], num_classes, branches)}
    if second_head:
        heads["layer3"] = AtrousHead(channels[-2], num_classes, branches)
    return heads


def deeplab_v2(
    num_classes: int,
    *,
    backbone: str = "resnet101",
    second_head: bool = False,
    output_stride: Literal[8, 16, 32] = 8,
    weights: Weights = None,
    normalisation: NormalisationName | None = None,
    align_corners: bool = True,
    batch_norm: BatchNormMode = "batch",
) -> Segmenter:
    """DeepLab-v2, the network of most adaptation papers, in today's geometry.

    Differs: timm's ResNet has its strides in the 3x3 convolutions, no `ceil_mode`, and the first
    block of a dilated stage keeps the dilation before it; `deeplab_v2_caffe` is the old one.

    Args:
        num_classes: C.
        backbone: any timm model that gives features.
        second_head: another head on the third stage, "layer3", as in AdaptSegNet and ADVENT.
        output_stride: by dilation; backbones that have none keep their strides (see `describe`).
        weights: of the backbone: "hub", a file with timm's names, or None for random ones.
        normalisation: None takes that of timm's weights of this name.
        align_corners: how logits are resized. Without it sizes that are no multiple of the last
            stride are padded (see `Segmenter`); with it nothing is, and backbones that fuse scales
            (HRNet, DLA) take only such multiples.
        batch_norm: see `segue.models.batch_norm`.

    Raises:
        SegueError: unknown backbone, hub out of reach, weights that do not fit.

    Example:
        >>> import torch
        >>> network = deeplab_v2(5, backbone="test_resnet", second_head=True)
        >>> {name: tuple(x.shape) for name, x in network(torch.zeros(2, 3, 32, 64)).logits.items()}
        {'main': (2, 5, 4, 8), 'layer3': (2, 5, 4, 8)}
    """
    encoder = TimmStages(backbone, output_stride, weights)
    padded = encoder.needs_divisible_sizes or not align_corners
    return Segmenter(
        encoder,
        atrous_heads(encoder.channels, num_classes, second_head=second_head),
        num_classes=num_classes,
        normalisation=normalisation_for(normalisation, backbone, weights),
        align_corners=align_corners,
        divisor=encoder.strides[-1] if padded else 1,
        batch_norm=batch_norm,
        freeze_affine=weights is not None,
        name=f"DeepLab-v2, {backbone}, stride {encoder.strides[-1]}",
    )
