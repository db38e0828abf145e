"""Equation 4 of coarse-to-fine against its formula written out, and where it could go wrong."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from segue.batch import Batch
from segue.errors import SegueError
from segue.losses.triplet import CategoryTriplet, category_triplet, default_networks, distances
from segue.models.centres import centres, on_grid
from segue.models.segmenter import Output
from segue.training.step import Step

CLASSES, CHANNELS = 5, 6
AGGREGATES = ("mean", "sum", "hardest")


def random(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def some_centres(absent=(), seed=9):
    found = functional.normalize(random(CLASSES, CHANNELS, seed=seed), dim=1)
    found[list(absent)] = 0
    return found


def some_labels(*shape, seed=1):
    label = torch.tensor(np.random.default_rng(seed).integers(0, CLASSES, shape))
    label[0, 0] = 255  # images differ in how many pixels are labelled
    return label


def triplet_by_hand(feature, label, held, margin, negatives, weight=None):
    """The formula pixel by pixel and class by class, with norms of differences."""
    feature, held = feature.numpy(), held.numpy()
    present = [c for c in range(len(held)) if held[c].any()]
    images = []
    for b in range(len(feature)):
        total, pixels = 0.0, 0
        for y, x in np.ndindex(*label.shape[1:]):
            own = int(label[b, y, x])
            if own not in present:
                continue
            g = feature[b, :, y, x] / math.sqrt(sum(v * v for v in feature[b, :, y, x]))
            to_own = math.sqrt(((g - held[own]) ** 2).sum())
            losses = [
                max(to_own - math.sqrt(((g - held[c]) ** 2).sum()) + margin, 0.0)
                for c in present
                if c != own
            ]
            share = 1.0 if weight is None else float(weight[b, y, x])
            pixels += 1
            if losses:
                total += (
                    share
                    * {
                        "mean": sum(losses) / len(losses),
                        "sum": sum(losses),
                        "hardest": max(losses),
                    }[negatives]
                )
        images.append(total / max(pixels, 1))
    return sum(images) / len(images)


@pytest.mark.parametrize("negatives", AGGREGATES)
@pytest.mark.parametrize("absent", [(), (1, 3), (0, 1, 2, 4)])
@pytest.mark.parametrize("margin", [0.2, 1.5])
def test_formula(negatives, absent, margin):
    feature, label, held = random(3, CHANNELS, 4, 5), some_labels(3, 4, 5), some_centres(absent)
    found = category_triplet(
        feature, label, held, held.ne(0).any(1), margin=margin, negatives=negatives
    )
    expected = triplet_by_hand(feature, label, held, margin, negatives)
    assert float(found) == pytest.approx(expected, abs=1e-12)
    if len(absent) == CLASSES - 1:
        assert expected == 0, "without negatives there is nothing to be far from"


@pytest.mark.parametrize("negatives", AGGREGATES)
def test_formula_with_weights(negatives):
    feature, label, held = random(3, CHANNELS, 4, 5), some_labels(3, 4, 5), some_centres()
    weight = random(3, 4, 5, seed=3).abs()
    found = category_triplet(
        feature, label, held, held.ne(0).any(1), negatives=negatives, weight=weight
    )
    expected = triplet_by_hand(feature, label, held, 0.2, negatives, weight)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_the_sum_is_as_many_times_heavier_as_there_are_other_classes():
    feature, label, held = random(2, CHANNELS, 4, 5), some_labels(2, 4, 5), some_centres((2,))
    mean, total, hardest = (
        float(category_triplet(feature, label, held, held.ne(0).any(1), negatives=one))
        for one in AGGREGATES
    )
    assert total == pytest.approx(3 * mean)
    assert mean <= hardest <= total


@pytest.mark.parametrize("negatives", AGGREGATES)
def test_gradient(negatives):
    feature, label, held = random(2, CHANNELS, 2, 3), some_labels(2, 2, 3), some_centres((3,))
    assert torch.autograd.gradcheck(
        lambda x: category_triplet(
            x, label, held, held.ne(0).any(1), margin=0.7, negatives=negatives
        ),
        feature.requires_grad_(),
    )


def test_distances():
    feature, held = random(2, CHANNELS, 3, 4), some_centres()
    normalised = functional.normalize(feature, dim=1)[:, None]
    expected = (normalised - held[None, :, :, None, None]).norm(dim=2)
    torch.testing.assert_close(distances(feature, held), expected, rtol=0, atol=1e-12)
    single = distances(feature.float(), held.float())
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)


def test_distances_and_gradients_of_large_maps_are_those_of_the_formula():
    """More pixels than a band and more channels than are squared at once."""
    feature, held = random(2, 70, 31, 71), functional.normalize(random(CLASSES, 70, seed=9), dim=1)
    pull = random(2, CLASSES, 31, 71, seed=2)
    one, other = (feature.clone().requires_grad_() for _ in range(2))
    found = distances(one, held)
    normalised = functional.normalize(other, dim=1)[:, None]
    expected = (normalised - held[None, :, :, None, None]).norm(dim=2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    found.backward(pull)
    expected.backward(pull)
    torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_a_feature_on_its_centre_has_finite_gradients(dtype, scale):
    """Distance 0 of the own class, and of a negative one where two centres are the same."""
    held = some_centres().float()
    held[1] = held[0]
    feature = (held.T * scale).to(dtype)[None, :, None].contiguous().requires_grad_()
    for label in (torch.arange(CLASSES), torch.arange(CLASSES).flip(0)):
        loss = category_triplet(
            feature, label[None, None], held, held.ne(0).any(1), negatives="hardest"
        )
        (gradient,) = torch.autograd.grad(loss, feature)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        # The distance to a point changes by at most 1 for each 1 that g moves.
        assert gradient.float().norm(dim=1).max() <= 2.1 / scale


def test_a_feature_of_zeros_is_left_alone():
    feature = torch.zeros(1, CHANNELS, 1, 2)
    feature[0, 0, 0, 0] = 1
    feature.requires_grad_()
    held = some_centres().float()
    loss = category_triplet(feature, torch.tensor([[[1, 1]]]), held, held.ne(0).any(1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(feature.grad).all()
    assert feature.grad[0, :, 0, 0].any()
    assert not feature.grad[0, :, 0, 1].any()


def test_ignored_pixels_and_those_of_absent_classes_have_no_gradient():
    feature, held = random(1, CHANNELS, 1, 4).requires_grad_(), some_centres((3,))
    label = torch.tensor([[[0, 255, 3, 1]]])
    category_triplet(feature, label, held, held.ne(0).any(1), margin=2.5).backward()
    touched = feature.grad.abs().sum(1).flatten() > 0
    assert touched.tolist() == [True, False, False, True]


def test_an_image_without_a_labelled_pixel_counts_as_0():
    feature, label, held = random(2, CHANNELS, 3, 4), some_labels(2, 3, 4), some_centres()
    label[1] = 255
    present = held.ne(0).any(1)
    alone = category_triplet(feature[:1], label[:1], held, present)
    assert float(category_triplet(feature, label, held, present)) == pytest.approx(float(alone) / 2)
    empty = feature[1:].requires_grad_()
    loss = category_triplet(empty, label[1:], held, present)
    assert float(loss.detach()) == 0
    loss.backward()
    assert not empty.grad.any()


def test_nothing_larger_than_the_feature_is_kept_for_the_gradient():
    kept = []
    feature = torch.randn(2, 64, 9, 11, requires_grad=True)
    label, held = some_labels(2, 9, 11), functional.normalize(torch.randn(CLASSES, 64), dim=1)

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        category_triplet(feature, label, held, held.ne(0).any(1))
    mine = {one.data_ptr(): one for one in kept if one.data_ptr() != feature.data_ptr()}
    assert max(one.numel() for one in mine.values()) <= 2 * CLASSES * 9 * 11


def test_it_is_computed_in_full_precision_under_autocast():
    feature, label = random(2, CHANNELS, 4, 5).bfloat16(), some_labels(2, 4, 5)
    held = some_centres().float()
    alone = category_triplet(feature.float(), label, held, held.ne(0).any(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(category_triplet(feature, label, held, held.ne(0).any(1)), alone)


@pytest.mark.parametrize("size", [(3, 4), (7, 5), (13, 20), (26, 40), (1, 1), (2, 33)])
def test_labels_are_resized_as_pil_and_torch_do(size):
    values = torch.arange(13 * 20).reshape(13, 20)
    found = on_grid(values[None], size)[0]
    pil = Image.fromarray(values.numpy().astype(np.int32)).resize(size[::-1], Image.NEAREST)
    np.testing.assert_array_equal(found.numpy(), np.array(pil))
    if 2 not in size:  # torch rounds a middle on the edge of two pixels by its float32
        exact = functional.interpolate(values[None, None].float(), size, mode="nearest-exact")
        assert torch.equal(found.float(), exact[0, 0])


class Fixed(nn.Module):
    """A segmenter with a stated penultimate feature."""

    def __init__(self, feature):
        super().__init__()
        self.feature = nn.Parameter(feature)

    def forward(self, image):
        return Output({"main": self.feature}, {"penultimate": self.feature})

    def upsample(self, logits, size):
        return functional.interpolate(logits, size)


def filled(absent=()):
    network = centres(CLASSES, channels=CHANNELS)
    network.value.copy_(some_centres(absent))
    return network


def step_of(feature, label, view="source", held=None, weight=None):
    batch = Batch(torch.zeros(len(feature), 3, *label.shape[1:]), label, weight)
    networks = {"segmenter": Fixed(feature.float()), "centres": held or filled()}
    return Step({view: batch}, networks, iteration=0)


@pytest.mark.parametrize("view", ["source", "target"])
@pytest.mark.parametrize("negatives", AGGREGATES)
def test_term_takes_the_labels_of_any_view_to_the_features_grid(view, negatives):
    feature, label = random(2, CHANNELS, 3, 4), some_labels(2, 12, 20)
    weight = random(2, 12, 20, seed=3).abs()
    step = step_of(feature, label, view, filled((1,)), weight)
    small = label[:, [2, 6, 10]][:, :, [2, 7, 12, 17]]
    small_weight = weight[:, [2, 6, 10]][:, :, [2, 7, 12, 17]]
    expected = triplet_by_hand(
        feature, small, some_centres((1,)), 0.3, negatives, weight=small_weight
    )
    term = CategoryTriplet(view=view, margin=0.3, negatives=negatives)
    assert term.views == (view,)
    found = term(step)
    assert float(found.detach()) == pytest.approx(expected, abs=1e-5)
    found.backward()
    assert step.network("segmenter").feature.grad.any()


def test_empty_centres_are_told():
    step = step_of(
        random(1, CHANNELS, 3, 4), some_labels(1, 6, 8), held=centres(CLASSES, channels=6)
    )
    with pytest.raises(SegueError, match=r"no class has a centre; .*load_from"):
        CategoryTriplet()(step)


def test_centres_of_another_feature_are_told():
    step = step_of(random(1, CHANNELS, 3, 4), some_labels(1, 6, 8), held=centres(CLASSES))
    with pytest.raises(SegueError, match=r"256 channels do not fit 'penultimate'.*has 6"):
        CategoryTriplet()(step)


def test_centres_are_a_network_of_buffers():
    network = centres(CLASSES, channels=CHANNELS)
    assert not list(network.parameters())
    assert {name: x.shape for name, x in network.state_dict().items()} == {
        "value": (CLASSES, CHANNELS),
        "count": (CLASSES,),
    }
    assert default_networks({"centres": "mine"}) == {"mine": {"kind": "centres"}}
