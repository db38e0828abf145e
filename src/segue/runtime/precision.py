"""Where a computation must not be taken to half precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Autocast switched off on the tensor's device; nothing for tensors that are shapes alone.

    Example:
        >>> with full_precision(torch.zeros(1)):
        ...     torch.is_autocast_enabled("cpu")
        False
    """
    # Autocast knows no such device, and `segue check` runs every loss on it.
    kind = like.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)
