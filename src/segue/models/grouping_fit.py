"""Fixed groupings by name: each is fitted to probability vectors and gives a grouping network."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segue.errors import SegueError
from segue.models.grouping import dff_grouping, k_means_grouping


def k_means(*, groups: int = 8, restarts: int = 10) -> Fit:
    """K-means of probability vectors, for the network `k_means_grouping`.

    Cross-domain grouping (AAAI 2021), figure 4, after Coates and Ng (2012).

    Differs: the paper shows pictures only and tells nothing of the fit; one set of centres for
    both domains and all images, and training with it, are our extension.

    Args:
        groups: K.
        restarts: from how many random starts; the best is taken.

    Example:
        >>> samples = np.eye(2, dtype=np.float32).repeat(5, 0)
        >>> sorted(k_means(groups=2)(samples, 0).centres.tolist())
        [[0.0, 1.0], [1.0, 0.0]]
    """

    def fit(samples: NDArray[np.float32], seed: int) -> nn.Module:
        from sklearn.cluster import KMeans

        refuse_too_few(samples, groups)
        fitted = KMeans(groups, n_init=restarts, random_state=seed % 2**32).fit(samples)
        network = k_means_grouping(samples.shape[1], groups=groups)
        network.centres.copy_(torch.from_numpy(fitted.cluster_centers_))
        return network

    return fit


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


GROUPINGS: dict[str, Callable[..., Fit]] = {"k_means": k_means, "dff": factorisation}
