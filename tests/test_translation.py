"""Translation without a network: each formula written out in float64, and what must always hold."""

import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segue.errors import SegueError
from segue.tables import arguments, build
from segue.translation import TRANSLATIONS
from segue.translation.fourier import Fourier
from segue.translation.lab import from_lab, to_lab
from segue.translation.photometric import LEAST_GAMMA, Photometric, fit_gamma, match_histogram
from segue.translation.unchanged import Unchanged

SCHEMES = ("hybrid", "gamma", "histogram")
EVERY = [*(Photometric(scheme=one) for one in SCHEMES), Fourier(), Fourier(beta=0.3), Unchanged()]
WHITE = np.array([0.95047, 1.0, 1.08883])
TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)

image_pairs = st.tuples(
    *(st.integers(3, 24) for _ in range(4)), st.integers(0, 2**31), st.sampled_from([255, 7, 1])
)


def drawn(numbers):
    """A source and a target of random sizes, of many or few values."""
    height, width, other_height, other_width, seed, most = numbers
    generator = np.random.default_rng(seed)
    shapes = ((1, 3, height, width), (1, 3, other_height, other_width))
    pair = [generator.integers(0, most + 1, shape) / most for shape in shapes]
    return [torch.from_numpy(image).float() for image in pair]


def scene(seed, size=(60, 80), level=0.5, spread=0.12):
    """A smooth coloured image [1, 3, H, W] of 8 bits, as pictures are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 6, 8, generator=generator) * spread + level
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
    noisy = smooth + torch.randn(smooth.shape, generator=generator) * 0.02
    return (noisy.clamp(0, 1) * 255).round() / 255


# The formulas, in float64.


def lab_of(rgb):
    """CIE 1976 L*a*b* of sRGB [3, H, W]."""
    rgb = np.asarray(rgb, np.float64)
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = np.einsum("ij,jhw->ihw", TO_XYZ, linear) / WHITE[:, None, None]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def rgb_of(lab):
    """sRGB of L*a*b* [3, H, W], cut off at 0 and 1."""
    lightness, a, b = np.asarray(lab, np.float64)
    middle = (lightness + 16) / 116
    f = np.stack([middle + a / 500, middle, middle - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * WHITE[:, None, None]
    linear = np.einsum("ij,jhw->ihw", np.linalg.inv(TO_XYZ), xyz)
    curved = 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055
    return np.clip(np.where(linear > 0.0031308, curved, 12.92 * linear), 0, 1)


def matched(source, target):
    """Histogram specification, exact on real values: quantiles of the one to those of the other."""
    place, counts = np.unique(source, return_inverse=True, return_counts=True)[1:]
    others, there = np.unique(target, return_counts=True)
    shares, quantiles = np.cumsum(counts) / source.size, np.cumsum(there) / target.size
    return np.interp(shares, quantiles, others)[place].reshape(source.shape)


def least(function, low, high, points=4001):
    """Where a function of one number is least: a fine grid, then golden sections."""
    grid = np.linspace(low, high, points)
    best = int(np.argmin([function(one) for one in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, points - 1)]
    ratio = (5**0.5 - 1) / 2
    for _ in range(45):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if function(left) < function(right) else (left, high)
    return (low + high) / 2


def corrected(source, target, low, span, beta):
    """Equation 2 on all pixels."""
    source, target = (np.clip((one - low) / span, 0, 1) for one in (source, target))

    def cost(gamma):
        return ((source**gamma).mean() - target.mean()) ** 2 + beta * (gamma - 1) ** 2

    return source ** least(cost, LEAST_GAMMA, 12, 61) * span + low


def photometric(source, target, scheme, beta=0.01):
    """Section 3.2 written out, on single images [3, H, W]."""
    lab, reference = lab_of(source), lab_of(target)
    shifts = ((0, 100), (-128, 255), (-128, 255))
    for index, (low, span) in enumerate(shifts):
        by_gamma = scheme == "gamma" or (scheme == "hybrid" and index == 0)
        if by_gamma:
            lab[index] = corrected(lab[index], reference[index], low, span, beta)
        else:
            lab[index] = matched(lab[index], reference[index])
    return rgb_of(lab)


def fourier(source, target, beta):
    """FDA's equation 3 written out with a shifted spectrum, on images [3, H, W] of one size."""
    one, other = (np.fft.fft2(np.asarray(x, np.float64)) for x in (source, target))
    amplitude, style = (np.fft.fftshift(np.abs(x), axes=(-2, -1)) for x in (one, other))
    height, width = source.shape[-2:]
    half = int(np.floor(beta * min(height, width)))
    rows = slice(max(height // 2 - half, 0), height // 2 + half + 1)
    columns = slice(max(width // 2 - half, 0), width // 2 + half + 1)
    amplitude[:, rows, columns] = style[:, rows, columns]
    amplitude = np.fft.ifftshift(amplitude, axes=(-2, -1))
    return np.clip(np.fft.ifft2(amplitude * np.exp(1j * np.angle(one))).real, 0, 1)


# Lab


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 3), (33, 2), (65, 40)])
def test_lab_is_the_formula(size):
    rgb = np.random.default_rng(0).random((3, *size), np.float32)
    assert np.abs(to_lab(rgb) - lab_of(rgb)).max() < 0.04


def test_lab_of_every_grey_has_no_colour():
    grey = np.repeat(np.arange(256, dtype=np.float32)[None, :, None] / 255, 3, 0)
    lab = to_lab(grey)
    assert np.abs(lab[1:]).max() < 1 / 512
    assert np.abs(lab[0] - lab_of(grey)[0]).max() < 0.01


def test_rgb_of_lab_is_the_formula_outside_of_srgb_too():
    wild = np.random.default_rng(0).uniform((0, -100, -100), (100, 100, 100), (90, 70, 3))
    lab = np.ascontiguousarray(wild.transpose(2, 0, 1), np.float32)
    shown = from_lab(lab)
    assert np.abs(shown - rgb_of(lab)).max() < 0.2 / 255
    assert 0 <= shown.min() <= shown.max() <= 1


def test_rgb_comes_back_from_lab():
    rgb = np.random.default_rng(0).random((3, 50, 60), np.float32)
    assert np.abs(from_lab(to_lab(rgb)) - rgb).max() < 0.2 / 255


# Gamma


@pytest.mark.parametrize("seed", range(12))
def test_gamma_minimises_equation_2(seed):
    generator = np.random.default_rng(seed)
    levels = generator.beta(*generator.uniform(0.3, 4, 2), 500)
    counts = generator.integers(1, 9, 500)
    mean, beta = generator.random(), float(generator.choice([0.01, 0.1, 1e-4]))

    def cost(gamma):
        return (counts @ levels**gamma / counts.sum() - mean) ** 2 + beta * (gamma - 1) ** 2

    found = fit_gamma(levels, counts, mean, beta)
    expected = least(cost, LEAST_GAMMA, 20)
    # Golden sections see the square root of a rounding error; the cost itself is as low.
    assert found == pytest.approx(expected, abs=1e-6, rel=1e-6)
    assert cost(found) <= cost(expected) + 1e-15


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_gamma_cannot_change_black_and_white(level):
    assert fit_gamma(np.array([level]), np.array([9]), mean=0.4) == 1


def test_gamma_ends_where_it_would_fall_to_nothing():
    # Half the pixels are black and stay so: no gamma reaches the mean.
    gamma = fit_gamma(np.array([0.0, 0.5]), np.array([1, 1]), mean=1.0)
    assert gamma == pytest.approx(LEAST_GAMMA)


def test_gamma_finds_the_lower_of_two_valleys():
    levels, counts = np.array([1e-4, 1.0]), np.array([9, 1])

    def cost(gamma):
        return (counts @ levels**gamma / 10 - 0.9) ** 2 + 0.5 * (gamma - 1) ** 2

    found = fit_gamma(levels, counts, 0.9, beta=0.5)
    assert cost(found) <= min(cost(gamma) for gamma in np.linspace(LEAST_GAMMA, 3, 5000)) + 1e-12


# Histogram matching


@settings(deadline=None, max_examples=50)
@given(image_pairs)
def test_histogram_matching_is_exact_up_to_its_steps(numbers):
    source, target = (
        np.round(lab_of(image[0].numpy())[1] * 256).astype(np.float32) / 256
        for image in drawn(numbers)
    )
    if source.min() < source.max():
        np.testing.assert_allclose(match_histogram(source, target), matched(source, target), 1e-5)


def test_matched_channel_has_the_others_histogram():
    source, target = (to_lab(scene(seed)[0].numpy())[1] for seed in (1, 2))
    shares = np.linspace(0.01, 0.99, 99)
    got = np.quantile(match_histogram(source, target), shares)
    np.testing.assert_allclose(got, np.quantile(target, shares), atol=0.1)


def test_matching_keeps_the_order_of_values():
    source, target = (to_lab(scene(seed)[0].numpy())[2].ravel()[None] for seed in (1, 2))
    got = match_histogram(source, target)[0][np.argsort(source[0])]
    assert (np.diff(got) >= 0).all()


# Photometric alignment


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("level", [0.3, 0.5, 0.7])
def test_photometric_is_section_3_2(scheme, level):
    source, target = scene(1), scene(2, (48, 90), level)
    got = Photometric(scheme=scheme)(source, target)[0].numpy()
    expected = photometric(source[0].numpy(), target[0].numpy(), scheme)
    difference = np.abs(got - expected) * 255
    assert difference.mean() < 0.1
    assert np.quantile(difference, 0.999) < 1


def test_a_stronger_beta_keeps_the_lightness():
    source, target = scene(1), scene(2, level=0.2)
    means = [
        float(to_lab(Photometric(beta=beta)(source, target)[0].numpy())[0].mean())
        for beta in (1e-4, 0.1, 100)
    ]
    wanted, before = (float(to_lab(one[0].numpy())[0].mean()) for one in (target, source))
    assert abs(means[0] - wanted) < 2
    assert means[0] < means[1] < means[2]
    assert abs(means[2] - before) < 1


def test_a_grey_source_takes_the_targets_median_colour():
    grey = scene(1)[:, :1].expand(-1, 3, -1, -1)
    target = scene(2)
    colour = np.median(to_lab(target[0].numpy())[1:], (1, 2))
    got = to_lab(Photometric()(grey, target)[0].numpy())
    np.testing.assert_allclose(np.median(got[1:], (1, 2)), colour, atol=0.3)


@pytest.mark.parametrize("scheme", ["hybrid", "histogram"])
def test_a_grey_target_takes_the_colours_away(scheme):
    target = scene(2)[:, :1].expand(-1, 3, -1, -1)
    got = Photometric(scheme=scheme)(scene(1), target)[0]
    assert float((got.amax(0) - got.amin(0)).max()) < 0.5 / 255


@pytest.mark.real_data
@pytest.mark.parametrize("scheme", SCHEMES)
def test_photometric_is_section_3_2_on_real_images(scheme):
    root = Path(os.environ.get("SEGUE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data in {root}")
    sources = sorted((root / "carla/images").glob("*"))[40::150]
    targets = sorted((root / "camvid/images/train").glob("*"))[30::110]
    for paths in zip(sources, targets, strict=False):
        images = [np.asarray(Image.open(path).convert("RGB")) / np.float32(255) for path in paths]
        source, target = (torch.from_numpy(one).permute(2, 0, 1)[None] for one in images)
        got = Photometric(scheme=scheme)(source, target)[0].numpy()
        expected = photometric(source[0].numpy(), target[0].numpy(), scheme)
        assert np.abs(got - expected).mean() * 255 < 0.2


# Fourier


@pytest.mark.parametrize("beta", [0, 0.01, 0.05, 0.09, 0.3, 0.5])
@pytest.mark.parametrize("size", [(40, 64), (41, 64), (40, 63), (33, 21), (6, 6)])
def test_fourier_is_the_formula(beta, size):
    source, target = scene(1, size), scene(2, size, 0.4)
    got = Fourier(beta=beta)(source, target)[0].numpy()
    expected = fourier(source[0].numpy(), target[0].numpy(), beta)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_fourier_resizes_the_target_to_the_source():
    source, target = scene(1, (40, 64)), scene(2, (80, 128))
    resized = torch.nn.functional.interpolate(target, (40, 64), mode="bilinear", antialias=True)
    assert torch.equal(Fourier()(source, target), Fourier()(source, resized))


def test_fourier_is_cut_off():
    source = scene(1, level=0.5, spread=0.4)
    got = Fourier(beta=0)(source, torch.ones(1, 3, 60, 80))
    raw = source + (1 - source.mean((2, 3), keepdim=True))
    assert raw.max() > 1
    torch.testing.assert_close(got, raw.clamp(0, 1), atol=1e-5, rtol=0)


# What every translation keeps


@pytest.mark.parametrize("translate", EVERY, ids=str)
class TestEvery:
    def test_shape_range_and_source_stay(self, translate):
        source, target = scene(1), scene(2, (30, 50))
        kept = source.clone(), target.clone()
        got = translate(source, target)
        assert got.shape == source.shape
        assert got.dtype == torch.float32
        assert 0 <= got.min() <= got.max() <= 1
        assert torch.equal(source, kept[0])
        assert torch.equal(target, kept[1])

    def test_images_of_a_batch_do_not_meet(self, translate):
        source, target = (torch.cat([scene(seed) for seed in seeds]) for seeds in ((1, 2), (3, 4)))
        alone = [translate(source[i : i + 1], target[i : i + 1]) for i in range(2)]
        torch.testing.assert_close(translate(source, target), torch.cat(alone), atol=1e-6, rtol=0)

    def test_an_image_in_its_own_style_is_itself(self, translate):
        source = scene(1)
        got = translate(source, source)
        assert float((got - source).abs().max()) * 255 < 0.6
        assert float((got - source).abs().mean()) * 255 < 0.1

    def test_it_is_the_same_again(self, translate):
        source, target = scene(1), scene(2)
        assert torch.equal(translate(source, target), translate(source, target))

    @pytest.mark.parametrize("values", [(0, 0), (1, 1), (0, 1), (0.4, 0.6)])
    def test_constant_images(self, translate, values):
        source, target = (torch.full((1, 3, 9, 12), float(value)) for value in values)
        got = translate(source, target)
        assert torch.isfinite(got).all()
        assert float(got.max() - got.min()) < 1e-4

    @settings(deadline=None, max_examples=25)
    @given(image_pairs)
    def test_any_images(self, translate, numbers):
        source, target = drawn(numbers)
        got = translate(source, target)
        assert got.shape == source.shape
        assert torch.isfinite(got).all()
        assert 0 <= got.min() <= got.max() <= 1


def test_unchanged_is_the_source():
    source = scene(1)
    assert Unchanged()(source, scene(2)) is source


# The table


@pytest.mark.parametrize("name", TRANSLATIONS)
def test_arguments_are_keywords_with_types(name):
    for parameter in inspect.signature(TRANSLATIONS[name]).parameters.values():
        assert parameter.kind == parameter.KEYWORD_ONLY
        assert parameter.annotation is not parameter.empty


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("photometrik", "by: unknown translation 'photometrik'; did you mean 'photometric'?"),
        ({"kind": "photometric", "sheme": "gamma"}, "by.sheme: unknown key; did you mean 'scheme'"),
        ({"kind": "photometric", "scheme": "sepia"}, "by.scheme: 'sepia' will not do"),
        ({"kind": "photometric", "beta": 0}, "beta: 0.0 will not do; use more than 0"),
        ({"kind": "fourier", "beta": 0.6}, "beta: 0.6 will not do; use 0 to 0.5"),
        ({"kind": "none", "beta": 1}, "by.beta: unknown key"),
    ],
)
def test_mistakes_are_told(part, said):
    with pytest.raises(SegueError) as caught:
        build(TRANSLATIONS, part, where="by", what="translation", work_dir=Path())
    assert str(caught.value).startswith(said)


def test_recipes_give_numbers_as_text():
    assert arguments(TRANSLATIONS["fourier"], {"beta": "0.05"}, where="by") == {"beta": 0.05}
