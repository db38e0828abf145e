"""A segmentation network as the rest of the code sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from segue.errors import SegueError
from segue.models.batch_norm import (
    BatchNormMode,
    apply_mode,
    describe,
    frozen_parameters,
    part_of,
    set_batch_norm,
)
from segue.models.normalisation import Normalisation

STAGES = ("layer1", "layer2", "layer3", "layer4")
# What torch and timm say of images that are too small, or no multiple of windows.
UNFIT = (
    "Kernel size can't be greater",
    "Calculated output size",
    "Output size is too small",
    "must be divisible by",
)


@dataclass(frozen=True)
class Output:
    """What a segmenter gives for one batch.

    Args:
        logits: by head name, "main" is always there; [B, C, h, w] at the network's own stride.
        features: by name; "layer1" to "layer4" are the encoder's last four stages, strides growing;
            "penultimate" is what the main head reads.
    """

    logits: dict[str, Tensor]
    features: dict[str, Tensor]


class Segmenter(nn.Module):
    """An encoder, perhaps a decoder, and heads.

    Args:
        encoder: normalised image [B, 3, H, W] -> list of feature maps, the last four are stages.
        heads: feature -> logits [B, C, h, w], by name; "main" reads the decoder's map, or the last
            stage where there is no decoder; any other reads the stage that it is named after.
        num_classes: C.
        normalisation: what the encoder's weights expect of the input.
        align_corners: how logits are resized.
        name: for `describe`.
        decoder: the encoder's list -> one map.
        divisor: images whose sides are no multiple of it are padded at the bottom and the right,
            with zeros after normalisation, as convolutions pad. Logits and features are then
            resampled so that upsampling them to the image's size gives what upsampling the padded
            ones and cropping would: nothing is shifted or stretched.
        batch_norm: see `segue.models.batch_norm`.
        freeze_affine: never train the scale and shift of the encoder's batch norms.
    """

    def __init__(
        self,
        encoder: nn.Module,
        heads: Mapping[str, nn.Module],
        *,
        num_classes: int,
        normalisation: Normalisation,
        align_corners: bool,
        name: str,
        decoder: nn.Module | None = None,
        divisor: int = 1,
        batch_norm: BatchNormMode = "batch",
        freeze_affine: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.heads = nn.ModuleDict(heads)
        self.num_classes = num_classes
        self.normalisation = normalisation
        self.align_corners = align_corners
        self.name = name
        self.divisor = divisor
        self.freeze_affine = freeze_affine
        self.tracking_hooks: list[RemovableHandle] = []
        self.batch_norm: BatchNormMode
        set_batch_norm(self, batch_norm)

    def forward(self, image: Tensor) -> Output:
        """Logits and features of RGB images [B, 3, H, W], 0 to 1.

        Raises:
            SegueError: batch statistics asked of a single value per channel, or images of a size
                that the encoder cannot take.
        """
        size = (int(image.shape[-2]), int(image.shape[-1]))
        bottom, right = (-side % self.divisor for side in size)
        try:
            output = self._run(F.pad(self.normalisation(image), (0, right, 0, bottom)))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise SegueError(
                "a single image leaves a pooling branch one value per channel, which has no "
                "batch statistics",
                where="batch_norm: batch",
                fix="use `running` or `tracking`, or a batch of two or more",
            ) from error
        except (RuntimeError, AssertionError) as error:
            if not any(told in str(error) for told in UNFIT):
                raise
            raise SegueError(
                f"{self.name} takes no images of {size[1]}x{size[0]} ({error})",
                where="size",
                fix=f"use multiples of {max(32, self.divisor)}, or of eight times as much for "
                "encoders with windows",
            ) from error
        if not (bottom or right):
            return output
        padded = (size[0] + bottom, size[1] + right)
        return Output(
            {name: self._unpad(x, size, padded) for name, x in output.logits.items()},
            {name: self._unpad(x, size, padded) for name, x in output.features.items()},
        )

    def _run(self, x: Tensor) -> Output:
        maps: list[Tensor] = self.encoder(x)
        features = dict(zip(STAGES, maps[-len(STAGES) :], strict=True))
        features["penultimate"] = maps[-1] if self.decoder is None else self.decoder(maps)
        logits = {
            name: head(features["penultimate" if name == "main" else name])
            for name, head in self.heads.items()
        }
        return Output(logits, features)

    def _unpad(self, x: Tensor, size: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        height, width = (
            -(-cells * side // total)
            for cells, side, total in zip(x.shape[-2:], size, padded, strict=True)
        )
        # With aligned corners a map spans its outermost pixels' centres, else their edges.
        end = 1 if self.align_corners else 0
        down, across = ((s - end) / (p - end) for s, p in zip(size, padded, strict=True))
        # In full precision, or bfloat16 would move the samples by whole cells.
        theta = torch.tensor(
            [[across, 0.0, across - 1.0], [0.0, down, down - 1.0]], device=x.device
        )
        batch = int(x.shape[0])
        grid = F.affine_grid(
            theta.expand(batch, 2, 3), [batch, 1, height, width], align_corners=self.align_corners
        )
        sampled = F.grid_sample(
            x.float(), grid, padding_mode="border", align_corners=self.align_corners
        )
        return sampled.to(x.dtype)

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits [B, C, h, w] resized bilinearly to `size` (height, width) -> [B, C, *size]."""
        return F.interpolate(logits, size, mode="bilinear", align_corners=self.align_corners)

    def parameter_groups(self) -> dict[str, list[Parameter]]:
        """What an optimiser may train: "backbone" and "head" (decoder included), each once."""
        frozen = frozen_parameters(self)
        groups: dict[str, list[Parameter]] = {"backbone": [], "head": []}
        for name, parameter in self.named_parameters():
            if name not in frozen:
                groups[part_of(name)].append(parameter)
        return groups

    def train(self, mode: bool = True) -> Segmenter:
        """Training mode, batch norms as `batch_norm` says; evaluation uses running statistics."""
        super().train(mode)
        apply_mode(self)
        return self

    def describe(self) -> str:
        """One line to print before training."""
        millions = sum(parameter.numel() for parameter in self.parameters()) / 1e6
        norm = describe(self.batch_norm, freeze_affine=self.freeze_affine)
        return (
            f"{self.name}, {millions:.1f} M parameters, batch norm: {norm}, "
            f"normalisation {self.normalisation.name}"
        )
