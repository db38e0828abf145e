"""The images that figures show, and what models say of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.datasets import Dataset
from segue.inference.model import Ensemble

Image = NDArray[np.uint8]


def spread(count: int, wanted: int) -> list[int]:
    """At most so many indices, evenly over all: neighbours in a video look the same.

    Example:
        >>> spread(10, 3), spread(2, 3)
        ([1, 5, 8], [0, 1])
    """
    few = min(count, wanted)
    return [(2 * place + 1) * count // (2 * few) for place in range(few)]


def probabilities(models: Ensemble, image: Image) -> Tensor:
    """Mean probabilities [C, H, W] of an image [H, W, 3], at the size that the models look at."""
    width, height = models.models[0].size
    every = [one.probabilities(image, (height, width)) for one in models.models]
    return torch.stack(every).mean(0)


def entropy(of: Tensor) -> Tensor:
    """Entropy [H, W] of probabilities [C, H, W], 0 to 1: divided by that of a uniform guess.

    Example:
        >>> entropy(torch.tensor([[[0.5, 1.0]], [[0.5, 0.0]]])).tolist()
        [[1.0, 0.0]]
    """
    unsure: Tensor = torch.special.entr(of).sum(0)
    return unsure / float(np.log(of.shape[0]))


def images(dataset: Dataset, wanted: int, size: tuple[int, int]) -> Iterator[tuple[int, Image]]:
    """Some images with their indices, at `size` (width, height)."""
    for index in spread(len(dataset), wanted):
        yield index, dataset.image(index, size)
