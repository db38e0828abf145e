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
from segue.parts import arguments, build
from segue.translation import TRANSLATIONS
from segue.translation.fourier import MOST_BY_PRODUCTS, Fourier, by_products, by_spectra
from segue.translation.lab import PER_UNIT, VALUES, ZERO, from_lab, to_lab
from segue.translation.photometric import LEAST_GAMMA, Photometric, fit_gamma, match_histogram
from segue.translation.photometric_on_device import align
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


def lab_values(rgb):
    """Lab [3, H, W] of an image [1, 3, H, W]."""
    return VALUES[to_lab(rgb[0].numpy())]


def match(source, target):
    """A channel of levels with the histogram of another, as values."""
    counts, others = (np.bincount(one.ravel(), minlength=65536) for one in (source, target))
    return match_histogram(counts, others, VALUES)[source]


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
    return np.fft.ifft2(amplitude * np.exp(1j * np.angle(one))).real


# Lab


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 3), (33, 2), (65, 40)])
def test_lab_is_the_formula(size):
    rgb = np.random.default_rng(0).random((3, *size), np.float32)
    for image in (rgb, rgb * np.float32(0.05)):
        difference = np.abs(VALUES[to_lab(image)] - lab_of(image))
        assert difference.max() < 0.1
        assert difference.mean() < 0.02


def test_lab_of_every_grey_has_no_colour():
    grey = np.repeat(np.arange(65536, dtype=np.float32).reshape(1, 256, 256) / 65535, 3, 0)
    lab = VALUES[to_lab(grey)]
    assert not lab[1:].any()
    assert np.abs(lab[0] - lab_of(grey)[0]).max() < 0.01


def test_rgb_of_lab_is_the_formula_outside_of_srgb_too():
    wild = np.random.default_rng(0).uniform((0, -100, -100), (100, 100, 100), (90, 70, 3))
    lab = np.rint(wild.transpose(2, 0, 1) * PER_UNIT + ZERO).astype(np.uint16)
    shown = from_lab(np.ascontiguousarray(lab))
    assert np.abs(shown - rgb_of(VALUES[lab])).max() < 0.2 / 255
    assert 0 <= shown.min() <= shown.max() <= 1


def test_rgb_comes_back_from_lab():
    rgb = np.random.default_rng(0).random((3, 50, 60), np.float32)
    difference = np.abs(from_lab(to_lab(rgb)) - rgb) * 255
    assert difference.max() < 0.5
    assert difference.mean() < 0.02


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
        np.round(lab_of(image[0].numpy())[1] * PER_UNIT + ZERO).astype(np.int64)
        for image in drawn(numbers)
    )
    if source.min() < source.max():
        expected = matched(VALUES[source], VALUES[target])
        np.testing.assert_allclose(match(source, target), expected, 1e-5)


def test_matched_channel_has_the_others_histogram():
    source, target = (to_lab(scene(seed)[0].numpy())[1] for seed in (1, 2))
    shares = np.linspace(0.01, 0.99, 99)
    got = np.quantile(match(source, target), shares)
    np.testing.assert_allclose(got, np.quantile(VALUES[target], shares), atol=0.1)


def test_matching_keeps_the_order_of_values():
    source, target = (to_lab(scene(seed)[0].numpy())[2].ravel() for seed in (1, 2))
    got = match(source, target)[np.argsort(source)]
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
        float(lab_values(Photometric(beta=beta)(source, target))[0].mean())
        for beta in (1e-4, 0.1, 100)
    ]
    wanted, before = (float(lab_values(one)[0].mean()) for one in (target, source))
    assert abs(means[0] - wanted) < 2
    assert means[0] < means[1] < means[2]
    assert abs(means[2] - before) < 1


def test_a_grey_source_takes_the_targets_median_colour():
    grey = scene(1)[:, :1].expand(-1, 3, -1, -1)
    target = scene(2)
    colour = np.median(lab_values(target)[1:], (1, 2))
    got = lab_values(Photometric()(grey, target))
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


# Photometric alignment on a device: torch alone


def on_device(source, target, scheme):
    photometric = Photometric(scheme=scheme)
    return align(source, target, photometric.by_gamma, photometric.beta)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("level", [0.3, 0.5, 0.7])
def test_on_a_device_it_is_section_3_2_too(scheme, level):
    source, target = scene(1), scene(2, (48, 90), level)
    got = on_device(source, target, scheme)[0].numpy()
    expected = photometric(source[0].numpy(), target[0].numpy(), scheme)
    difference = np.abs(got - expected) * 255
    assert difference.mean() < 0.05
    assert np.quantile(difference, 0.999) < 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_on_a_device_as_on_the_processor(scheme):
    source = torch.cat([scene(1), scene(2)[:, :1].expand(-1, 3, -1, -1), torch.zeros(1, 3, 60, 80)])
    target = torch.cat([scene(3, level=0.3), scene(4), torch.ones(1, 3, 60, 80)])
    got, expected = on_device(source, target, scheme), Photometric(scheme=scheme)(source, target)
    difference = (got - expected).abs() * 255
    assert float(difference.mean()) < 0.02
    assert float(difference.quantile(0.999)) < 0.5


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(deadline=None, max_examples=25)
@given(image_pairs)
def test_on_a_device_any_images(scheme, numbers):
    source, target = drawn(numbers)
    got = on_device(source, target, scheme)
    assert got.shape == source.shape
    assert torch.isfinite(got).all()
    assert 0 <= got.min() <= got.max() <= 1


def test_on_a_device_images_of_a_batch_do_not_meet():
    source, target = (torch.cat([scene(seed) for seed in seeds]) for seeds in ((1, 2), (3, 4)))
    together = on_device(source, target, "hybrid")
    for index in range(2):
        one = slice(index, index + 1)
        alone = on_device(source[one], target[one], "hybrid")
        torch.testing.assert_close(together[one], alone, atol=1e-6, rtol=0)


def test_on_a_device_it_is_as_exact_under_autocast():
    source, target = scene(1), scene(2)
    with torch.autocast("cpu", torch.bfloat16):
        got = on_device(source, target, "hybrid")
    assert torch.equal(got, on_device(source, target, "hybrid"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("translate", EVERY, ids=str)
def test_on_a_gpu_as_on_the_processor(translate):
    source, target = scene(1), scene(2, (48, 90))
    got = translate(source.cuda(), target.cuda())
    assert got.is_cuda
    assert float((got.cpu() - translate(source, target)).abs().mean()) * 255 < 0.02


# Fourier


@pytest.mark.parametrize("beta", [0, 0.01, 0.05, 0.09, 0.3, 0.5])
@pytest.mark.parametrize("size", [(40, 64), (41, 64), (40, 63), (33, 21), (6, 6)])
def test_fourier_is_the_formula(beta, size):
    source, target = scene(1, size), scene(2, size, 0.4)
    got = Fourier(beta=beta)(source, target)[0].numpy()
    expected = fourier(source[0].numpy(), target[0].numpy(), beta)
    np.testing.assert_allclose(got, np.clip(expected, 0, 1), atol=2e-6)


@pytest.mark.parametrize("change", [by_products, by_spectra])
@pytest.mark.parametrize("beta", [0, 0.01, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("size", [(40, 64), (41, 64), (40, 63), (33, 21), (6, 6), (120, 100)])
def test_fourier_is_the_formula_in_float64(change, beta, size):
    source, target = (scene(seed, size).double() for seed in (1, 2))
    half = int(beta * min(size))
    expected = fourier(source[0].numpy(), target[0].numpy(), beta)
    np.testing.assert_allclose(change(source, target, half)[0].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("other", [(80, 128), (30, 41), (40, 21), (97, 64)])
def test_products_resize_the_target_as_spectra_do(other):
    source, target = scene(1, (40, 64)).double(), scene(2, other).double()
    for half in (0, 3, 20):
        expected = by_spectra(source, target, half)
        torch.testing.assert_close(by_products(source, target, half), expected, atol=1e-9, rtol=0)


def test_fourier_beyond_what_products_are_for():
    size = (2 * MOST_BY_PRODUCTS + 20, 2 * MOST_BY_PRODUCTS + 11)
    source, target = scene(1, size), scene(2, size, 0.4)
    got = Fourier(beta=0.5)(source, target)[0].numpy()
    expected = fourier(source[0].numpy(), target[0].numpy(), 0.5)
    np.testing.assert_allclose(got, np.clip(expected, 0, 1), atol=3e-6)


def test_fourier_is_as_exact_under_autocast():
    source, target = scene(1), scene(2, (30, 50))
    with torch.autocast("cpu", torch.bfloat16):
        got = Fourier()(source, target)
    assert torch.equal(got, Fourier()(source, target))


def test_fourier_resizes_the_target_to_the_source():
    source, target = scene(1, (40, 64)), scene(2, (80, 128))
    resized = torch.nn.functional.interpolate(target, (40, 64), mode="bilinear", antialias=True)
    for beta in (0.01, 0.2):
        got, expected = (Fourier(beta=beta)(source, one) for one in (target, resized))
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)


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
    assert said in str(caught.value)


def test_recipes_give_numbers_as_text():
    assert arguments(TRANSLATIONS["fourier"], {"beta": "0.05"}, where="by") == {"beta": 0.05}
