"""Fourier domain adaptation: the low frequencies' amplitudes of another image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from segue.errors import SegueError

MOST_BY_PRODUCTS = 64  # frequencies; above it whole spectra take less


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
        image, other = source.detach().float(), target.detach().to(source.device).float()
        half = math.floor(self.beta * min(image.shape[-2:]))
        # A GPU is done with whole spectra sooner than with what these products need.
        few = half <= MOST_BY_PRODUCTS and source.device.type == "cpu"
        with torch.autocast(source.device.type, enabled=False):
            result = (by_products if few else by_spectra)(image, other, half)
        return result.clamp_(0, 1).to(source)


def by_spectra(source: Tensor, target: Tensor, half: int) -> Tensor:
    """Equation 3, not cut off, by whole spectra.

    Args:
        source: images [B, 3, H, W].
        target: images [B, 3, h, w].
        half: half-side of the square.
    """
    size = (int(source.shape[-2]), int(source.shape[-1]))
    if target.shape[-2:] != source.shape[-2:]:
        target = functional.interpolate(target, size, mode="bilinear", antialias=True)
    spectrum, reference = torch.fft.rfft2(source), torch.fft.rfft2(target)
    rows = torch.tensor(_frequencies(size[0], half), device=source.device)
    # Of a real image's spectrum half the columns say all: frequencies 0 to W / 2.
    low, style = spectrum[..., rows, : half + 1], reference[..., rows, : half + 1]
    spectrum[..., rows, : half + 1] = torch.polar(style.abs(), low.angle())
    result: Tensor = torch.fft.irfft2(spectrum, s=size)
    return result


def by_products(source: Tensor, target: Tensor, half: int) -> Tensor:
    """As `by_spectra`, but only the square's frequencies are looked at, by matrix products.

    The result is the source and what the change of its square is as an image. The target is not
    resized either: a resized image's square is a matrix product too.

    Example:
        >>> source, target = torch.rand(2, 1, 3, 8, 9, dtype=torch.float64)
        >>> (by_products(source, target, 2) - by_spectra(source, target, 2)).abs().max() < 1e-12
        tensor(True)
    """
    height, width = int(source.shape[-2]), int(source.shape[-1])
    wanted = _frequencies(height, half), tuple(range(half + 1))
    squares = []
    for image in (target, source):
        down = _waves(wanted[0], height, image.shape[-2], image.dtype)
        across = torch.view_as_real(_waves(wanted[1], width, image.shape[-1], image.dtype))
        across = across.permute(0, 2, 1).flatten(0, 1)
        flat = image.reshape(-1, image.shape[-1]) @ across.T
        columns = torch.view_as_complex(flat.view(*image.shape[:-1], half + 1, 2))
        squares.append(down @ columns)
    style, low = squares
    change = torch.polar(style.abs(), low.angle()) - low
    # All but the first and, where the width is even, the last of all stand for two columns.
    twice = [1 if column in (0, width / 2) else 2 for column in wanted[1]]
    change = change * (torch.tensor(twice, dtype=source.dtype) / (height * width))
    flat = torch.view_as_real(down.conj().T @ change).reshape(-1, 2 * (half + 1))
    return torch.addmm(source.reshape(-1, width), flat, across).view_as(source)


def _frequencies(length: int, half: int) -> tuple[int, ...]:
    """Of a spectrum of so many rows those from -half to half, in its order."""
    all_rows = (index - length * (2 * index >= length) for index in range(length))
    return tuple(row for row in all_rows if abs(row) <= half)


@lru_cache(maxsize=16)
def _waves(frequencies: tuple[int, ...], length: int, given: int, dtype: torch.dtype) -> Tensor:
    """[F, given], complex: what takes `given` pixels, resized to `length`, to frequencies."""
    turns = (torch.tensor(frequencies)[:, None] * torch.arange(length) % length).double()
    waves = torch.polar(torch.ones((), dtype=torch.float64), turns * (-2 * math.pi / length))
    if given != length:
        eye = torch.eye(given, dtype=torch.float64)[None, None]
        size = (length, given)
        resized = functional.interpolate(eye, size, mode="bilinear", antialias=True)
        waves = waves @ resized[0, 0].to(waves)
    return waves.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
