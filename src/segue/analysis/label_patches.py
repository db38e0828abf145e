"""Random patches of label maps as the input of a network that guesses their domain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.errors import SegueError
from segue.label_space import IGNORE

LabelMap = NDArray[np.uint8]


@dataclass(frozen=True)
class LabelPatches:
    """Cuts patches out of label maps that are resized before and after, nearest both times.

    Args:
        num_classes: channels of the one-hot input; ignored pixels are zero in all.
        size: width and height that maps and patches are resized to, in pixels.
        extent: height and width of a patch, in pixels of a resized map.
        mask_void: ignore in each patch what is void at the same place in a random map of the other
            domain.

    Example:
        >>> patches = LabelPatches(2, size=(4, 2), extent=(2, 4), mask_void=False)
        >>> label = np.array([[0, 255], [1, 1]], np.uint8)
        >>> crops = patches.draw([label], [label], [0], np.random.default_rng(0))
        >>> crops.tolist()
        [[[0, 0, 255, 255], [1, 1, 1, 1]]]
        >>> patches.encode(crops, "cpu")[0, :, 0].tolist()
        [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """

    num_classes: int
    size: tuple[int, int]
    extent: tuple[int, int]
    mask_void: bool

    def draw(
        self,
        own: Sequence[LabelMap],
        other: Sequence[LabelMap],
        indices: Iterable[int],
        rng: np.random.Generator,
    ) -> Tensor:
        """One random patch of each map that `indices` name, [B, *extent] uint8.

        Raises:
            SegueError: a map is not [H, W] uint8 or holds an id that is no class.
        """
        width, height = self.size
        crops = []
        for index in indices:
            top = int(rng.integers(height - self.extent[0] + 1))
            left = int(rng.integers(width - self.extent[1] + 1))
            crop = self._view(own[index], top, left)
            if self.mask_void:
                hiding = self._view(other[int(rng.integers(len(other)))], top, left)
                crop[hiding == IGNORE] = IGNORE
            crops.append(crop)
        return torch.from_numpy(np.stack(crops))

    def encode(self, crops: Tensor, device: str) -> Tensor:
        """Patches resized to `size` and one-hot on the device, [B, C, H, W] float."""
        crops = crops.to(device)
        width, height = self.size
        rows = torch.from_numpy(_nearest(np.arange(height), height, crops.shape[1])).to(device)
        columns = torch.from_numpy(_nearest(np.arange(width), width, crops.shape[2])).to(device)
        resized = crops[:, rows][:, :, columns]
        classes = torch.arange(self.num_classes, device=device, dtype=torch.uint8)
        return (resized[:, None] == classes[:, None, None]).float()

    def _view(self, label: LabelMap, top: int, left: int) -> LabelMap:
        # Nearest after nearest is one look-up, so that no whole map is resized for a small patch.
        if label.ndim != 2 or label.dtype != np.uint8 or label.size == 0:
            raise SegueError(
                f"is {label.dtype} of shape {label.shape}",
                where="label map",
                fix="give [H, W] uint8 train ids",
            )
        width, height = self.size
        rows = _nearest(np.arange(top, top + self.extent[0]), height, label.shape[0])
        columns = _nearest(np.arange(left, left + self.extent[1]), width, label.shape[1])
        view: LabelMap = label[rows][:, columns]
        if ((view >= self.num_classes) & (view != IGNORE)).any():
            raise SegueError(
                f"holds ids that are neither below {self.num_classes} nor {IGNORE}",
                where="label map",
                fix="translate them to train ids, or give the right number of classes",
            )
        return view


def _nearest(position: NDArray[np.int64], size: int, original: int) -> NDArray[np.int64]:
    """The original pixel under the centre of each resized pixel, as Pillow chooses it."""
    return (2 * position + 1) * original // (2 * size)
