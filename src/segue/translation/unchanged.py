"""No translation, for ablations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Unchanged:
    """Source images as they are, in the place of a translation that is switched off.

    Example:
        >>> import torch
        >>> bool((Unchanged()(torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 4, 4)) == 1).all())
        True
    """

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """The source images."""
        del target
        return source
