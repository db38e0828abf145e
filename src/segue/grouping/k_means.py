"""Groups around the means of probability vectors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segue.grouping.fit import Fit, refuse_too_few
from segue.models.grouping import k_means_grouping


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
