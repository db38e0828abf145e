"""Each rule against its formula written out in float64, pixel by pixel."""

import math

import numpy as np
import pytest
import torch

from segue.errors import SegueError
from segue.parts import build
from segue.pseudo_labels import RULES, decide, total
from segue.pseudo_labels.category_adaptive import CategoryAdaptive
from segue.pseudo_labels.class_balanced import ClassBalanced
from segue.pseudo_labels.confidence import Confidence
from segue.pseudo_labels.outcome import Measured, Outcome, kept_counts, measured_counts

CLASSES = 5


def images(count=4, size=(9, 13), seed=0, scale=2.0, absent=None):
    """Probabilities as a network gives them; one class may never be the likeliest."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        logits = scale * torch.randn(CLASSES, *size, generator=generator)
        if absent is not None:
            logits[absent] = -3
        found.append(torch.softmax(logits, 0))
    return found


def settled(rule, seen, classes=CLASSES):
    counts = []
    for _ in range(rule.passes):
        counts.append(total(rule, seen, counts))
    return rule.settle(counts, classes)


def pixels(seen):
    """(image, y, x, probabilities in float64) of every pixel."""
    for number, image in enumerate(seen):
        array = image.numpy().astype(np.float64)
        for y, x in np.ndindex(*array.shape[1:]):
            yield number, y, x, array[:, y, x]


def expect(rule, seen, label_of):
    """Compares every pixel's decision with a function of its probabilities."""
    known = settled(rule, seen)
    decided = [decide(known, image) for image in seen]
    assert all(one.dtype == np.uint8 for one in decided)
    for number, y, x, p in pixels(seen):
        assert decided[number][y, x] == label_of(p), (number, y, x)
    kept = np.stack(decided) != 255
    assert 0 < kept.sum() < kept.size
    return known


@pytest.mark.parametrize(("cap", "quantile"), [(0.9, 0.5), (0.9, 0.66), (0.9, 0.9), (0.5, 0.5)])
def test_confidence_above_cap_or_quantile(cap, quantile):
    seen = images(absent=2)
    by_class = {c: [] for c in range(CLASSES)}
    for *_, p in pixels(seen):
        by_class[p.argmax()].append(p.max())
    limits = {}
    for c, x in by_class.items():
        x.sort()
        limits[c] = min(cap, x[min(round(len(x) * quantile), len(x) - 1)]) if x else cap
    known = expect(
        Confidence(cap=cap, quantile=quantile),
        seen,
        lambda p: p.argmax() if p.max() > limits[p.argmax()] else 255,
    )
    assert known.thresholds == pytest.approx(list(limits.values()), abs=0)
    assert known.thresholds[2] == cap, "never predicted"


def test_a_fixed_threshold_needs_no_pass():
    rule = Confidence(cap=0.6, quantile=None)
    assert rule.passes == 0
    expect(rule, images(), lambda p: p.argmax() if p.max() > 0.6 else 255)


def test_a_cap_is_compared_in_double_precision():
    """float32(0.9) is below 0.9: it does not exceed it, as it would not in the papers' numpy."""
    p = torch.tensor([0.9, 0.1])[:, None, None]
    above = torch.nextafter(p, torch.ones(()))
    known = Confidence(cap=0.9, quantile=None).settle([], 2)
    assert decide(known, p).item() == 255
    assert decide(known, above).item() == 0


@pytest.mark.parametrize("portion", [0.2, 0.5, 1.0])
def test_class_balanced_ratio(portion):
    seen = images(absent=2)
    by_class = {c: [] for c in range(CLASSES)}
    for *_, p in pixels(seen):
        by_class[p.argmax()].append(p.max())
    limits = []
    for x in by_class.values():
        chosen = math.floor(len(x) * portion)
        limits.append(sorted(x, reverse=True)[chosen - 1] if chosen else 1.0)

    def label_of(p):
        ratio = p / np.array(limits)
        # In float32 the ratio of two is rounded; near a tie of classes either may come first.
        best = ratio.max()
        return ratio.argmax() if best >= 1 else 255

    if portion < 1:
        known = expect(ClassBalanced(portion=portion), seen, label_of)
        assert list(known.thresholds) == limits
        return
    known = settled(ClassBalanced(portion=1.0), seen)
    labels = [decide(known, image) for image in seen]
    assert all((label != 255).all() for label in labels), "the whole of every class"


def test_class_balanced_relabels_for_a_rare_class():
    """A pixel goes to the class that it stands out for, not to the likeliest."""
    rule = ClassBalanced(portion=1.0)
    sure = torch.tensor([[0.95, 0.9, 0.55], [0.05, 0.1, 0.45]])
    rare = torch.tensor([[0.45], [0.55]])
    seen = torch.cat([sure, rare, torch.tensor([[0.49], [0.51]])], 1)[:, None]
    known = settled(rule, [seen], 2)
    assert known.thresholds == pytest.approx([0.55, 0.51])
    assert decide(known, seen).tolist() == [[0, 0, 0, 1, 1]]
    half = settled(ClassBalanced(portion=0.67), [seen], 2)
    assert half.thresholds == pytest.approx([0.9, 0.55])
    doubtful = torch.tensor([[0.44], [0.56]])[:, None]
    assert decide(half, doubtful).tolist() == [[1]]
    relabelled = torch.tensor([[0.5], [0.5]])[:, None] + torch.tensor([0.06, 0.0])[:, None, None]
    assert relabelled[:, 0, 0].argmax() == 0
    assert half.propose(relabelled)[0].item() == 1


@pytest.mark.parametrize("weighting", ["count", "confidence", "confidence_over_count"])
@pytest.mark.parametrize("delta", [0.0, 0.2])
def test_entropy_below_that_of_the_class_mean(delta, weighting):
    seen = images(absent=2)
    summed, weights = np.zeros((CLASSES, CLASSES)), np.zeros(CLASSES)
    for *_, p in pixels(seen):
        summed[p.argmax()] += p if weighting == "count" else p.max() * p
        weights[p.argmax()] += p.max() if weighting == "confidence" else 1.0

    def entropy(p):
        return -sum(v * math.log(v) for v in p if v > 0)

    limits = [
        entropy(summed[c] / weights[c]) - delta if weights[c] else math.nan for c in range(CLASSES)
    ]
    known = expect(
        CategoryAdaptive(delta=delta, weighting=weighting),
        seen,
        lambda p: p.argmax() if entropy(p) < limits[p.argmax()] else 255,
    )
    assert known.thresholds == pytest.approx(limits, abs=1e-7, nan_ok=True)
    assert math.isnan(known.thresholds[2]), "never predicted"
    assert decide(known, torch.eye(CLASSES)[:, :1, None].roll(2, 0)).item() == 255


def test_saturated_probabilities_have_no_entropy():
    sure = torch.zeros(CLASSES, 1, 4)
    sure[0] = 1.0
    seen = [torch.cat([sure, images(1, (1, 60))[0]], 2)]
    for rule in (CategoryAdaptive(), CategoryAdaptive(weighting="confidence")):
        known = settled(rule, seen)
        assert decide(known, seen[0])[0, :4].tolist() == [0, 0, 0, 0]
    assert settled(CategoryAdaptive(), [sure]).thresholds[0] == 0
    assert (decide(settled(CategoryAdaptive(), [sure]), sure) == 255).all(), "0 is not below 0"


@pytest.mark.parametrize("name", RULES)
def test_deciding_again_gives_the_same(name):
    rule = RULES[name](**({"portion": 0.3} if name == "class_balanced" else {}))
    seen = images()
    known = settled(rule, seen)
    for image in seen:
        np.testing.assert_array_equal(decide(known, image), decide(known, image.clone()))
    assert settled(rule, seen) == known
    assert settled(rule, seen[::-1]) == known


def test_rules_are_built_from_a_recipe():
    told = {"kind": "confidence", "quantile": None, "cap": 0.8}
    assert build(RULES, told, where="rule", what="rule") == Confidence(cap=0.8, quantile=None)
    with pytest.raises(SegueError, match=r"rule\.portion: is missing"):
        build(RULES, "class_balanced", where="rule", what="rule")
    with pytest.raises(SegueError, match="give 0 to 1"):
        Confidence(quantile=1.5)
    with pytest.raises(SegueError, match="more than 0"):
        ClassBalanced(portion=0)


def test_precision_and_recall_by_hand():
    truth = np.array([[0, 0, 0, 1, 1, 255, 2, 255]], np.uint8)
    pseudo = np.array([[0, 0, 1, 1, 255, 1, 255, 255]], np.uint8)
    counts = measured_counts(truth, pseudo, 4)
    assert counts.sum() == 6, "what has no label does not count"
    found = Measured("validation", 1, tuple("abcd"), counts)
    assert found.precision == {"a": 2 / 2, "b": 1 / 2, "c": None, "d": None}
    assert found.recall == {"a": 2 / 3, "b": 1 / 2, "c": 0, "d": None}
    assert found.accuracy_by_class == {"a": 2 / 3, "b": 1, "c": None, "d": None}
    assert found.accuracy == 3 / 4
    assert found.recall_of_all == 3 / 6


def test_shares_kept_by_hand():
    label = torch.tensor([[0, 0, 1], [1, 1, 1]])
    kept = torch.tensor([[True, False, True], [True, True, False]])
    outcome = Outcome(tuple("abc"), (0.9, 0.5, math.nan), kept_counts(label, kept, 3), 1)
    assert outcome.share_kept == {"a": 0.5, "b": 0.75, "c": None}
    assert outcome.threshold == {"a": 0.9, "b": 0.5, "c": None}
    told = outcome.told()
    assert told["total"] == {"predicted": 6, "kept": 4, "share_kept": 4 / 6}
    assert told["kept"] == {"a": 1, "b": 3, "c": 0}
    row = outcome.row()
    assert row["kept"] == 4 / 6
    assert row["kept/b"] == 0.75
    assert row["predicted/c"] == 0
    assert "kept/c" not in row
    assert "threshold/c" not in row


@pytest.mark.parametrize("rule", RULES)
def test_bands_of_rows_stand_for_images(rule):
    built = build(RULES, settings_of(rule), where="rule", what="rule")
    seen = images()
    bands = [band for image in seen for band in image.split((4, 4, 1), 1)]
    known, by_bands = settled(built, seen), settled(built, bands)
    np.testing.assert_array_equal(known.thresholds, by_bands.thresholds)
    for image in seen:
        parts = [decide(by_bands, band) for band in image.split((4, 4, 1), 1)]
        np.testing.assert_array_equal(np.concatenate(parts), decide(known, image))


def settings_of(rule):
    return {"kind": rule, **({"portion": 0.4} if rule == "class_balanced" else {})}
