"""What fits a fixed grouping, and what it must be given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from segue.errors import SegueError

# (probability vectors [N, C], seed) -> a grouping network without trainable parameters
Fit = Callable[[NDArray[np.float32], int], nn.Module]


def refuse_too_few(samples: NDArray[np.float32], groups: int) -> None:
    """Refuses samples that do not hold as many different vectors as there are to be groups.

    Raises:
        SegueError: they do not.

    Example:
        >>> refuse_too_few(np.ones((5, 2), np.float32), 1)
    """
    different = len(np.unique(samples, axis=0))
    if different < groups:
        raise SegueError(
            f"{different} different pixels do not make {groups} groups",
            where="groups",
            fix="ask for fewer groups, or train the model longer",
        )
