"""DeepLab-v2 in the geometry of the public checkpoints of AdaptSegNet, ADVENT and BDL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from segue.models.batch_norm import BatchNormMode
from segue.models.deeplab_v2 import atrous_heads
from segue.models.normalisation import NORMALISATIONS, NormalisationName
from segue.models.segmenter import Segmenter
from segue.models.weights import load_weights

LayoutName = Literal["backbone", "adaptsegnet", "adaptsegnet_multi", "advent", "bdl"]
Depths = tuple[int, int, int, int]


@dataclass(frozen=True)
class Layout:
    """Which heads a public checkpoint holds.

    Args:
        heads: the checkpoint's name -> ours.
        branches: how many of a head's four convolutions the code that trained it sums.
    """

    heads: Mapping[str, str]
    branches: int = 4


LAYOUTS: dict[LayoutName, Layout] = {
    "backbone": Layout({}),
    "adaptsegnet": Layout({"layer5": "main"}, branches=2),
    "adaptsegnet_multi": Layout({"layer5": "layer3", "layer6": "main"}, branches=2),
    "advent": Layout({"layer5": "layer3", "layer6": "main"}),
    "bdl": Layout({"layer5": "main"}),
}


class CaffeBottleneck(nn.Module):
    """A residual block whose stride sits in its first 1x1 convolution."""

    def __init__(
        self, channels: int, width: int, stride: int, dilation: int, project: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )
            if project
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, 4 width, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class CaffeResNet(nn.Module):
    """ResNet as converted from Caffe: sizes rounded up in the pool, dilation from a stage's start.

    Args:
        depths: blocks per stage; (3, 4, 23, 3) is ResNet-101.
        width: of the first stage's inner convolutions.

    Example:
        >>> import torch
        >>> [tuple(x.shape[1:]) for x in CaffeResNet((1, 1, 1, 1), 4)(torch.zeros(1, 3, 64, 128))]
        [(16, 17, 33), (32, 9, 17), (64, 9, 17), (128, 9, 17)]
    """

    def __init__(self, depths: Depths, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, depths[0], stride=1, dilation=1)
        self.layer2 = _stage(4 * width, 2 * width, depths[1], stride=2, dilation=1)
        self.layer3 = _stage(8 * width, 4 * width, depths[2], stride=1, dilation=2)
        self.layer4 = _stage(16 * width, 8 * width, depths[3], stride=1, dilation=4)
        self.channels = (4 * width, 8 * width, 16 * width, 32 * width)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image [B, 3, H, W] -> four maps at strides 4, 8, 8, 8."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        maps: list[Tensor] = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def _stage(channels: int, width: int, depth: int, *, stride: int, dilation: int) -> nn.Sequential:
    first = CaffeBottleneck(channels, width, stride, dilation, project=True)
    rest = (CaffeBottleneck(4 * width, width, 1, dilation, project=False) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)


def deeplab_v2_caffe(
    num_classes: int,
    *,
    second_head: bool = False,
    weights: Path | None = None,
    layout: LayoutName = "backbone",
    branches: Literal[2, 4] | None = None,
    depths: Depths = (3, 4, 23, 3),
    width: int = 64,
    normalisation: NormalisationName = "caffe",
    align_corners: bool = True,
    batch_norm: BatchNormMode = "batch",
) -> Segmenter:
    """DeepLab-v2 on ResNet-101 as AdaptSegNet, ADVENT and BDL publish it: BGR input, old geometry.

    Stride in each bottleneck's first 1x1 convolution, `ceil_mode` in the max-pool, dilation from a
    stage's first block on: 65x129 logits for 512x1024.

    Differs: AdaptSegNet's code stores four convolutions per head and returns after summing two
    (dilations 6 and 12), so its checkpoints are only right with two; ADVENT and BDL sum four, as
    the papers say.

    Args:
        num_classes: C; for a checkpoint with heads, the one that it was trained with.
        second_head: another head on layer3.
        weights: a checkpoint; its scales and shifts of batch norm are frozen, as in all three.
        layout: what the checkpoint is. "backbone": only the ResNet is taken (the public initial
            weights). "adaptsegnet" (one level) and "bdl": layer5 is the main head.
            "adaptsegnet_multi" and "advent": layer6 is the main head, layer5 that on layer3, left
            out without `second_head`.
        branches: convolutions summed in a head; None takes the layout's: 2 for AdaptSegNet, else 4.
        depths: blocks per stage.
        width: of the first stage.
        normalisation: "caffe" is what the public weights want.
        align_corners: how logits are resized; all three use True.
        batch_norm: see `segue.models.batch_norm`.

    Raises:
        SegueError: weights that do not fit.

    Example:
        >>> network = deeplab_v2_caffe(19, depths=(1, 1, 1, 1), width=4)
        >>> network.describe().split(", ")[-1]
        'normalisation caffe'
    """
    encoder = CaffeResNet(depths, width)
    heads = atrous_heads(
        encoder.channels,
        num_classes,
        second_head=second_head,
        branches=branches or LAYOUTS[layout].branches,
    )
    segmenter = Segmenter(
        encoder,
        heads,
        num_classes=num_classes,
        normalisation=NORMALISATIONS[normalisation],
        align_corners=align_corners,
        batch_norm=batch_norm,
        freeze_affine=True,
        name=f"DeepLab-v2, old geometry, {3 * sum(depths) + 2} layers, stride 8",
    )
    if weights is not None and layout == "backbone":
        load_weights(encoder, weights, minimum=1.0)
    elif weights is not None:
        load_weights(segmenter, weights, rename=LayoutRename(LAYOUTS[layout]), minimum=1.0)
    return segmenter


@dataclass(frozen=True)
class LayoutRename:
    """A public checkpoint's names -> ours.

    Example:
        >>> LayoutRename(LAYOUTS["bdl"])("layer5.conv2d_list.0.bias")
        'heads.main.branches.0.bias'
    """

    layout: Layout

    def __call__(self, key: str) -> str | None:
        """Our name of a tensor."""
        first, _, rest = key.partition(".")
        if first in self.layout.heads:
            branch = rest.removeprefix("conv2d_list.")
            return f"heads.{self.layout.heads[first]}.branches.{branch}"
        return f"encoder.{key}"
