"""Networks that say to which of K groups a pixel belongs: a learnt one and two fixed ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from segue.errors import SegueError
from segue.runtime.precision import full_precision

_TINY = 1e-12


def grouping(num_classes: int, *, groups: int = 8, hidden: int = 64) -> nn.Module:
    """The learnt grouping: [B, C, H, W] -> H [B, K, H, W], positive and 1 in sum over K.

    Cross-domain grouping (AAAI 2021), "Cross-Domain grouping network": a 1x1 convolution, ReLU,
    batch norm, a 1x1 convolution, softmax.

    Differs: batch norm always uses the statistics of each image alone, which in the paper, with
    batches of one image, are those of the batch. So losses stay a mean over images however a batch
    is spread over processes, and a map is grouped after training as it was in training.

    Args:
        num_classes: C.
        groups: K.
        hidden: channels of the first convolution.

    Example:
        >>> membership = grouping(19, groups=3)(torch.rand(2, 19, 4, 5))
        >>> membership.shape, bool(torch.allclose(membership.sum(1), torch.ones(2, 4, 5)))
        (torch.Size([2, 3, 4, 5]), True)
    """
    return nn.Sequential(
        nn.Conv2d(num_classes, hidden, 1),
        nn.ReLU(),
        nn.InstanceNorm2d(hidden, affine=True),
        nn.Conv2d(hidden, groups, 1),
        nn.Softmax(1),
    )


class KMeansGrouping(nn.Module):
    """Membership by distance to centres; see `k_means_grouping`.

    Args:
        centres: [K, C].
        sharpness: how fast membership falls with squared distance.
    """

    centres: Tensor

    def __init__(self, centres: Tensor, sharpness: float) -> None:
        super().__init__()
        self.register_buffer("centres", centres)
        self.sharpness = sharpness

    def forward(self, probabilities: Tensor) -> Tensor:
        """H [B, K, H, W] of P [B, C, H, W].

        Raises:
            SegueError: the centres were never loaded.
        """
        # |p - c|^2 without |p|^2, which softmax takes out.
        nearness = _filter(probabilities, 2 * _loaded(self.centres))
        nearness = nearness - self.centres.square().sum(1)[:, None, None]
        return (self.sharpness * nearness).softmax(1)


def k_means_grouping(
    num_classes: int, *, groups: int = 8, sharpness: float = 20.0
) -> KMeansGrouping:
    """A fixed grouping around K centres of probability vectors, empty until it is loaded.

    H = softmax over K of -sharpness * |P - centre|^2: k-means for a large sharpness, and yet with
    a gradient for the segmenter. Probability vectors of two certain classes are 2 apart (squared),
    so that with 20 a pixel is shared only near the border of two groups.

    Differs: cross-domain grouping (AAAI 2021), figure 4, shows k-means beside the learnt grouping;
    training with it is our extension.

    Args:
        num_classes: C.
        groups: K, as many as were fitted; see the stage `groups`.
        sharpness: how fast membership falls with squared distance; larger is harder.

    Example:
        >>> network = KMeansGrouping(torch.eye(2), 20.0)
        >>> pixels = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).T[None, :, None]
        >>> network(pixels)[0, 0].tolist()
        [[1.0, 0.5]]
    """
    return KMeansGrouping(torch.zeros(groups, num_classes), sharpness)


class FactorGrouping(nn.Module):
    """Membership by non-negative coefficients on a basis; see `dff_grouping`.

    Args:
        basis: [K, C], non-negative, each row 1 in sum.
        updates: how many multiplicative updates the coefficients take.
    """

    basis: Tensor

    def __init__(self, basis: Tensor, updates: int) -> None:
        super().__init__()
        self.register_buffer("basis", basis)
        self.updates = updates

    def forward(self, probabilities: Tensor) -> Tensor:
        """H [B, K, H, W] of P [B, C, H, W], which must not be negative.

        Raises:
            SegueError: the basis was never loaded.
        """
        overlap = _filter(probabilities, _loaded(self.basis)) + _TINY
        gram = (self.basis[:, None] * self.basis).sum(2)
        coefficients = overlap
        for _ in range(self.updates):
            coefficients = coefficients * overlap / (_filter(coefficients, gram) + _TINY)
        return coefficients / coefficients.sum(1, keepdim=True)


def dff_grouping(num_classes: int, *, groups: int = 8, updates: int = 10) -> FactorGrouping:
    """A fixed grouping by deep feature factorisation, empty until it is loaded.

    H are the non-negative coefficients of P on K fixed distributions over classes, by Lee and
    Seung's multiplicative updates of |P - H basis|^2, divided by their sum over K. Gradients go
    through the updates.

    Differs: cross-domain grouping (AAAI 2021), figure 4, shows deep feature factorisation (Collins
    et al., 2018) of features beside the learnt grouping; training with it, and on probabilities, is
    our extension.

    Args:
        num_classes: C.
        groups: K, as many as were fitted; see the stage `groups`.
        updates: how many updates the coefficients take.

    Example:
        >>> network = FactorGrouping(torch.eye(2), 10)
        >>> pixels = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).T[None, :, None]
        >>> [round(one, 4) for one in network(pixels)[0, 0, 0].tolist()]
        [0.9, 0.5]
    """
    return FactorGrouping(torch.zeros(groups, num_classes), updates)


def _loaded(values: Tensor) -> Tensor:
    if not bool(values.any()):
        raise SegueError(
            "the grouping is empty",
            where="networks: grouping",
            fix="give it `load_from`: an earlier stage of kind `groups`",
        )
    return values


def _filter(maps: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution in full precision: [B, C, H, W] by [K, C] -> [B, K, H, W]."""
    with full_precision(maps):
        whole = maps if maps.dtype == torch.float64 else maps.float()
        return functional.conv2d(whole, weight.to(whole.dtype)[:, :, None, None])
