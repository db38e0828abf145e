"""Centres of classes in a network's features, and labels on the grid of those features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segue.errors import SegueError


class Centres(nn.Module):
    """One direction per class, filled by the stage `centres`; nothing of it is trained.

    Args:
        num_classes: C.
        channels: D, of the feature.
    """

    value: Tensor  # [C, D], of length 1; all zero where the class was not seen
    count: Tensor  # [C] int64, pixels that were averaged

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(num_classes, channels))
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.int64))

    def present(self) -> Tensor:
        """[C] bool, the classes that have a centre.

        Raises:
            SegueError: none has.
        """
        present = self.value.ne(0).any(1)
        if not bool(present.any()):
            fix = "give it `load_from`: an earlier stage of kind `centres`"
            raise SegueError("no class has a centre", where="networks: centres", fix=fix)
        return present


def centres(num_classes: int, *, channels: int = 256) -> Centres:
    """Centres of classes, empty until they are loaded.

    Coarse-to-fine (CVPR 2021), equation 3.

    Args:
        num_classes: C.
        channels: of the feature; the penultimate one has 256 in DeepLab-v3+, SegFormer and UPerNet.

    Example:
        >>> {name: tuple(x.shape) for name, x in centres(19).state_dict().items()}
        {'value': (19, 256), 'count': (19,)}
    """
    return Centres(num_classes, channels)


def on_grid(values: Tensor, size: tuple[int, int]) -> Tensor:
    """What a map [B, H, W] holds below the middle of each cell of a grid: [B, *size].

    Nearest as PIL has it and torch calls `nearest-exact`, in whole numbers, so that no rounding
    decides where a middle lies on the edge of two pixels: it takes the lower or right one.

    Args:
        values: labels or weights of pixels.
        size: height and width of the grid.

    Example:
        >>> on_grid(torch.arange(6)[None, None], (1, 3)).tolist()
        [[[1, 3, 5]]]
    """
    rows, columns = (
        (2 * torch.arange(cells, device=values.device) + 1) * pixels // (2 * cells)
        for pixels, cells in zip(values.shape[-2:], size, strict=True)
    )
    return values[:, rows[:, None], columns]
