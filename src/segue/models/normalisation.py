"""What a network's weights expect of their input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Triple = tuple[float, float, float]
NormalisationName = Literal["imagenet", "half", "caffe", "none"]


@dataclass(frozen=True)
class Normalisation:
    """(scale x - mean) / std, channel by channel, after turning RGB to BGR where asked.

    Args:
        name: for messages.
        mean: per channel, in the channel order that the network sees.
        std: per channel.
        scale: 1 for weights that saw 0 to 1, 255 for those that saw 0 to 255.
        bgr: whether the weights expect blue first.

    Example:
        >>> import torch
        >>> NORMALISATIONS["half"](torch.ones(1, 3, 1, 1)).flatten().tolist()
        [1.0, 1.0, 1.0]
    """

    name: str
    mean: Triple
    std: Triple
    scale: float = 1.0
    bgr: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        """RGB [B, 3, H, W], 0 to 1 -> what the network wants, same shape."""
        if self.bgr:
            image = image.flip(1)
        mean = image.new_tensor(self.mean).view(3, 1, 1)
        std = image.new_tensor(self.std).view(3, 1, 1)
        return (image * self.scale - mean) / std


NORMALISATIONS: dict[NormalisationName, Normalisation] = {
    "imagenet": Normalisation("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalisation("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "caffe": Normalisation(
        "caffe", (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), 255.0, bgr=True
    ),
    "none": Normalisation("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
