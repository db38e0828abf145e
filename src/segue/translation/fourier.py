"""Fourier domain adaptation: the low frequencies' amplitudes of another image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from segue.errors import SegueError


@dataclass(frozen=True, kw_only=True)
class Fourier:
    """A source image whose low frequencies have a target image's amplitudes.

    FDA (CVPR 2020), equation 3: in the centred square of half-side floor(beta min(H, W)), its
    edges and centre included, the amplitude is the target's; phases and all else are the source's.

    Differs: FDA cuts its source images to the size of its targets; here the target is resized to
    the source's size (bilinear, antialiased), so that nothing of the source is lost. The result is
    cut off at 0 and 1. FDA's program leaves out the row and the column of the highest positive
    frequency of the square.

    Args:
        beta: half-side of the square as a fraction of the shorter side.

    Raises:
        SegueError: beta is not 0 to 0.5.

    Example:
        >>> source, target = torch.rand(1, 3, 8, 8) / 2, torch.rand(1, 3, 4, 4) / 2
        >>> bool((Fourier(beta=0)(source, target).mean() - target.mean()).abs() < 0.01)
        True
    """

    beta: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 0.5:
            raise SegueError(f"{self.beta} will not do", where="beta", fix="use 0 to 0.5")

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """[B, 3, H, W] of source images [B, 3, H, W] and target images [B, 3, h, w], 0 to 1."""
        size = (int(source.shape[-2]), int(source.shape[-1]))
        image, other = source.detach().float(), target.detach().to(source.device).float()
        if other.shape[-2:] != image.shape[-2:]:
            other = functional.interpolate(other, size, mode="bilinear", antialias=True)
        half = math.floor(self.beta * min(size))
        spectrum, reference = torch.fft.rfft2(image), torch.fft.rfft2(other)
        frequencies = torch.fft.fftfreq(size[0], 1 / size[0], device=source.device)
        rows = torch.nonzero(frequencies.abs() < half + 0.5).flatten()
        # Of a real image's spectrum half the columns say all: frequencies 0 to W / 2.
        low, style = spectrum[..., rows, : half + 1], reference[..., rows, : half + 1]
        spectrum[..., rows, : half + 1] = torch.polar(style.abs(), low.angle())
        result: Tensor = torch.fft.irfft2(spectrum, s=size)
        return result.clamp_(0, 1).to(source)
