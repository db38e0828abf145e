"""Selection by counting equals a full sort, to the bit, however the images are spread."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segue.pseudo_labels import RULES, selection, total
from segue.pseudo_labels.class_balanced import ClassBalanced
from segue.pseudo_labels.confidence import Confidence

CLASSES = 4
# Neighbours in the last bit, halves that differ in the upper 16 bits alone, and both ends.
SPECIAL = [1.0, 0.9, 0.5, 0.5 + 2**-24, 0.5 + 2**-8, np.nextafter(np.float32(1), 0), 0.2500001]
CONFIDENCES = st.one_of(st.sampled_from(SPECIAL), st.floats(0.25, 1, width=32))


def image_of(pixels):
    """[C, 1, N] whose largest values and their classes are given; the rest shares what is left."""
    image = np.empty((CLASSES, 1, len(pixels)), np.float32)
    for place, (label, confidence) in enumerate(pixels):
        rest = (1 - confidence) / (CLASSES - 1)
        # A tie would go to the first class.
        image[:, 0, place] = min(rest, np.nextafter(np.float32(confidence), np.float32(0)))
        image[label, 0, place] = confidence
    return torch.from_numpy(image)


@st.composite
def data(draw):
    """Some images, several of them perhaps of one value, some classes perhaps never predicted."""
    present = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, unique=True))
    pixel = st.tuples(st.sampled_from(present), CONFIDENCES)
    return draw(st.lists(st.lists(pixel, min_size=1, max_size=30), min_size=1, max_size=5))


def counted(rule, images, parts=1):
    """All counts of a rule, images dealt out to several processes and merged after each pass."""
    counts = []
    for _ in range(rule.passes):
        counts.append(sum(total(rule, images[part::parts], counts) for part in range(parts)))
    return counts


def sorted_confidences(images):
    """Class by class, ascending."""
    flat = torch.cat([image.flatten(1) for image in images], 1).numpy()
    confidence, label = flat.max(0), flat.argmax(0)
    return [np.sort(confidence[label == c]) for c in range(CLASSES)]


@given(data(), st.sampled_from([0.0, 0.1, 0.5, 0.66, 0.9, 1.0]))
def test_any_rank_equals_a_full_sort(pixels, quantile):
    images = [image_of(one) for one in pixels]
    rule = Confidence(cap=1.0, quantile=quantile)
    found = selection.select(counted(rule, images), rule.rank)
    for value, x in zip(found, sorted_confidences(images), strict=True):
        if len(x):
            assert value == x[min(round(len(x) * quantile), len(x) - 1)]
        else:
            assert np.isnan(value)


@given(data(), st.sampled_from([0.5, 0.66, 0.9]))
def test_thresholds_are_those_of_bdl_and_fda(pixels, quantile):
    images = [image_of(one) for one in pixels]
    rule = Confidence(cap=0.9, quantile=quantile)
    found = rule.settle(counted(rule, images), CLASSES).thresholds
    for threshold, x in zip(found, sorted_confidences(images), strict=True):
        place = int(np.round(len(x) * quantile))
        # Their code stops where the place is beyond the end.
        expected = min(0.9, float(x[min(place, len(x) - 1)])) if len(x) else 0.9
        assert threshold == expected


@given(data(), st.sampled_from([0.05, 0.2, 0.5, 1.0]))
def test_thresholds_are_those_of_cbst(pixels, portion):
    images = [image_of(one) for one in pixels]
    rule = ClassBalanced(portion=portion)
    found = rule.settle(counted(rule, images), CLASSES).thresholds
    for threshold, x in zip(found, sorted_confidences(images), strict=True):
        chosen = int(np.floor(len(x) * portion))
        assert threshold == (float(x[::-1][chosen - 1]) if chosen else 1.0)


@pytest.mark.parametrize("name", RULES)
@given(pixels=data(), parts=st.integers(1, 7))
def test_any_split_gives_the_same_bits(name, pixels, parts):
    """More parts than images leave some without any."""
    images = [image_of(one) for one in pixels]
    rule = RULES[name](**({"portion": 0.3} if name == "class_balanced" else {}))
    for one, other in zip(counted(rule, images), counted(rule, images, parts), strict=True):
        assert one.dtype == other.dtype == np.int64
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("pixels", [[(2, 1.0)], [(0, 0.3)], [(1, 0.7)] * 5])
def test_one_pixel_or_one_value(pixels):
    images = [image_of(pixels)]
    label, confidence = pixels[0]
    for quantile in (0.0, 0.5, 0.9, 1.0):
        rule = Confidence(cap=1.0, quantile=quantile)
        found = rule.settle(counted(rule, images), CLASSES)
        assert found.thresholds[label] == np.float32(confidence)
        assert [t for c, t in enumerate(found.thresholds) if c != label] == [1.0] * (CLASSES - 1)
        assert not found.propose(images[0])[1].any(), "nothing exceeds itself"


def test_large_image_of_random_logits():
    torch.manual_seed(0)
    images = [torch.softmax(4 * torch.randn(CLASSES, 120, 250), 0) for _ in range(3)]
    rule = Confidence(cap=1.0, quantile=0.9)
    found = rule.settle(counted(rule, images), CLASSES).thresholds
    for threshold, x in zip(found, sorted_confidences(images), strict=True):
        assert threshold == x[round(len(x) * 0.9)]
        # Coarse-to-fine's wording: a tenth of the class is above.
        assert (x > threshold).mean() == pytest.approx(0.1, abs=2 / len(x) + 1e-4)


@pytest.mark.parametrize("name", RULES)
def test_memory_does_not_grow_with_the_number_of_images(name):
    rule = RULES[name](**({"portion": 0.3} if name == "class_balanced" else {}))

    def images(count):
        generator = torch.Generator().manual_seed(0)
        for _ in range(count):
            yield torch.softmax(3 * torch.randn(CLASSES, 32, 64, generator=generator), 0)

    peaks, sizes = {}, {}
    for count in (20, 20, 200):  # the first warms up
        counts = []
        tracemalloc.start()
        for _ in range(rule.passes):
            counts.append(total(rule, images(count), counts))
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        sizes[count] = sum(one.nbytes for one in counts)
    assert sizes[20] == sizes[200]
    # Of more random images the one with most different values has a few more.
    assert abs(peaks[200] - peaks[20]) < 50_000
