"""Groups as factors of probability vectors: deep feature factorisation."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segue.grouping.fit import Fit, refuse_too_few
from segue.models.grouping import dff_grouping


def factorisation(*, groups: int = 8, iterations: int = 500) -> Fit:
    """Non-negative matrix factorisation of probability vectors, for the network `dff_grouping`.

    Cross-domain grouping (AAAI 2021), figure 4, after deep feature factorisation (Collins et al.,
    ECCV 2018): samples = H basis, the rows of the basis then scaled to 1 in sum.

    Differs: the paper shows pictures only and tells nothing of the fit; deep feature factorisation
    factors features of a few images, here one basis serves the probabilities of both domains and
    all images, and training with it is our extension.

    Args:
        groups: K.
        iterations: at most how many of the solver's.

    Example:
        >>> samples = np.eye(2, dtype=np.float32).repeat(5, 0)
        >>> basis = factorisation(groups=2)(samples, 0).basis.round(decimals=3).abs().tolist()
        >>> sorted(basis)
        [[0.0, 1.0], [1.0, 0.0]]
    """

    def fit(samples: NDArray[np.float32], seed: int) -> nn.Module:
        from sklearn.decomposition import NMF
        from sklearn.exceptions import ConvergenceWarning

        refuse_too_few(samples, groups)
        solver = NMF(groups, max_iter=iterations, random_state=seed % 2**32)
        with warnings.catch_warnings():
            # A basis that still moves a little groups as well.
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(samples)
        basis = torch.from_numpy(solver.components_)
        network = dff_grouping(samples.shape[1], groups=groups)
        network.basis.copy_(basis / basis.sum(1, keepdim=True).clamp(min=1e-12))
        return network

    return fit
