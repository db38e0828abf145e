"""Fixed groupings by name: each is fitted to probability vectors and gives a grouping network."""

from __future__ import annotations

from collections.abc import Callable

from segue.grouping.factorisation import factorisation
from segue.grouping.fit import Fit
from segue.grouping.k_means import k_means

GROUPINGS: dict[str, Callable[..., Fit]] = {"k_means": k_means, "dff": factorisation}

__all__ = ["GROUPINGS", "Fit"]
