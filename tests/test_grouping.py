"""Grouping networks and the losses of groups against their formulas written out in float64."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from segue.batch import Batch
from segue.errors import SegueError
from segue.losses.cross_entropy import CrossEntropy
from segue.losses.grouping import (
    ClassEquivalence,
    GroupConsistency,
    GroupOrthogonality,
    Groups,
    class_equivalence,
    consistency,
    default_networks,
    maxima,
    means,
    orthogonality,
)
from segue.models.grouping import (
    FactorGrouping,
    KMeansGrouping,
    dff_grouping,
    grouping,
    k_means_grouping,
)
from segue.models.grouping_fit import GROUPINGS
from segue.models.segmenter import Output
from segue.training.loop import backward
from segue.training.networks import Network, Networks
from segue.training.optimisers import sgd
from segue.training.phases import Weighted, usual_phases
from segue.training.state import Training
from segue.training.step import Step

CLASSES, GROUPS = 4, 3
LOSSES = (GroupConsistency, GroupOrthogonality, ClassEquivalence)


class Stated(nn.Module):
    """A segmenter whose logits are what a test states, by the image's first value."""

    def __init__(self, source, target):
        super().__init__()
        self.source, self.target = (
            nn.Parameter(torch.tensor(one).float()) for one in (source, target)
        )
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        shown = self.target if image[0, 0, 0, 0] == 1 else self.source
        return Output({"main": shown, "layer3": 2 * shown}, {})

    def upsample(self, logits, size):
        return functional.interpolate(logits, size, mode="bilinear", align_corners=True)


class Counted(nn.Module):
    """A grouping network that counts how often it runs."""

    def __init__(self, groups=GROUPS):
        super().__init__()
        self.network, self.calls = grouping(CLASSES, groups=groups, hidden=5), 0

    def forward(self, maps):
        self.calls += 1
        return self.network(maps)


def random(*shape, seed=0, scale=2.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


def step_of(source, target, network=None, size=(6, 7)):
    batches = {
        "source": Batch(torch.zeros(len(source), 3, *size), torch.zeros(len(source), *size).long()),
        "target": Batch(torch.ones(len(target), 3, *size)),
    }
    torch.manual_seed(0)
    networks = {"segmenter": Stated(source, target), "grouping": network or Counted()}
    return Step(batches, networks, iteration=0)


def logits_of(sizes=(2, 2), size=(6, 7)):
    return [random(n, CLASSES, *size, seed=seed) for seed, n in enumerate(sizes)]


def softmax(x):
    powers = np.exp(x - x.max(0))
    return powers / powers.sum(0)


def grouped_by_hand(p, network):
    """H [K, H, W] of one image's P [C, H, W], one pixel after the other."""
    first, _, norm, last, _ = network
    w1, b1, w2, b2, scale, shift = (
        x.detach().double().numpy()
        for x in (first.weight, first.bias, last.weight, last.bias, norm.weight, norm.bias)
    )
    hidden = np.empty((len(w1), *p.shape[1:]))
    for y, x in np.ndindex(*p.shape[1:]):
        hidden[:, y, x] = np.maximum(w1[:, :, 0, 0] @ p[:, y, x] + b1, 0)
    for channel in range(len(hidden)):
        mean, variance = hidden[channel].mean(), hidden[channel].var()
        hidden[channel] = (hidden[channel] - mean) / math.sqrt(variance + 1e-5)
        hidden[channel] = hidden[channel] * scale[channel] + shift[channel]
    found = np.empty((len(w2), *p.shape[1:]))
    for y, x in np.ndindex(*p.shape[1:]):
        found[:, y, x] = softmax(w2[:, :, 0, 0] @ hidden[:, y, x] + b2)
    return found


def written_out(source, target, network, tau=0.05):
    """L_co, L_orth and L_cl of one pair of images of logits [C, H, W], by loops over k, c and j."""
    q, m = {}, {}
    for domain, logits in (("S", source), ("T", target)):
        p = softmax(logits)
        h = grouped_by_hand(p, network)
        for k in range(len(h)):
            f = np.stack([h[k] * p[c] for c in range(len(p))])
            q[domain, k] = np.array([f[c].mean() for c in range(len(p))])
            m[domain, k] = np.array([f[c].max() for c in range(len(p))])
    ks = range(len(h))
    co = sum(((q["S", k] - q["T", k]) ** 2).sum() for k in ks)
    orth = sum(
        q[domain, j] @ q[domain, k] / (np.linalg.norm(q[domain, j]) * np.linalg.norm(q[domain, k]))
        for domain in "ST"
        for j in ks
        for k in ks
        if j != k
    )
    cl = 0.0
    for k in ks:
        for u in range(len(p)):
            if m["S", k][u] >= tau:
                cl -= math.log(max(m["T", k][u], 1e-7))
    return co, orth, cl


@pytest.mark.parametrize("groups", [1, 2, GROUPS])
def test_equations_1_2_3_and_5(groups):
    source, target = logits_of()
    step = step_of(source, target, Counted(groups))
    network = step.network("grouping").network
    pairs = [written_out(*pair, network) for pair in zip(source, target, strict=True)]
    expected = np.mean(pairs, 0)
    found = [float(loss()(step).detach()) for loss in LOSSES]
    assert found == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-7)
    if groups == 1:
        assert found[1] == 0, "one group has no other to be orthogonal to"


def test_a_threshold_leaves_classes_out():
    source, target = logits_of()
    step = step_of(source, target)
    network = step.network("grouping").network
    found = [float(ClassEquivalence(threshold=tau)(step).detach()) for tau in (0.2, 0.05, 2.0)]
    pairs = zip(source, target, strict=True)
    expected = np.mean([written_out(*pair, network, tau=0.2)[2] for pair in pairs])
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert found[0] < found[1]
    assert found[2] == 0


def test_logits_may_be_grouped_instead():
    source, target = logits_of((1, 1))
    step = step_of(source, target)
    found = GroupConsistency(grouping_input="logits")(step)
    network = step.network("grouping").network
    expected = 0.0
    for k in range(GROUPS):
        q = [(grouped_by_hand(x[0], network)[k] * x[0]).mean((1, 2)) for x in (source, target)]
        expected += ((q[0] - q[1]) ** 2).sum()
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sizes", [(3, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("loss", LOSSES)
def test_batches_may_differ_in_size(loss, sizes):
    source, target = logits_of(sizes)
    step = step_of(source, target)
    value = loss()(step)
    value.backward()
    index = np.arange(max(sizes))
    whole = step_of(source[index % sizes[0]], target[index % sizes[1]], step.network("grouping"))
    if loss is GroupOrthogonality:
        # It pairs nothing: each domain is averaged over its own images.
        parts = [orthogonality(Groups().means(step, view)) for view in ("source", "target")]
        assert float(value.detach()) == pytest.approx(float(sum(parts).detach()))
    else:
        assert float(value.detach()) == pytest.approx(float(loss()(whole).detach()), rel=1e-5)
    assert torch.isfinite(step.network("segmenter").target.grad).all()


def test_domains_may_differ_in_extent():
    networks = {"segmenter": Stated(*logits_of((1, 1))), "grouping": Counted()}
    batches = {"source": Batch(torch.zeros(1, 3, 9, 5)), "target": Batch(torch.ones(1, 3, 4, 12))}
    step = Step(batches, networks, iteration=0)
    assert all(torch.isfinite(loss()(step)) for loss in LOSSES)


def double(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).random(shape), requires_grad=True)


def test_gradients():
    p, h = double(2, CLASSES, 3, 2), double(2, GROUPS, 3, 2, seed=1)
    q, other = double(2, GROUPS, CLASSES, seed=2), double(2, GROUPS, CLASSES, seed=3)
    for function, inputs in (
        (means, (p, h)),
        (maxima, (p, h)),
        (consistency, (q, other)),
        (orthogonality, (q,)),
        (lambda target: class_equivalence(other, target), (q,)),
        (dff_with_basis(), (p,)),
        (k_means_with_centres(), (p,)),
    ):
        assert torch.autograd.gradcheck(function, inputs)


def dff_with_basis():
    return FactorGrouping(torch.rand(GROUPS, CLASSES).double() + 0.1, 5)


def k_means_with_centres():
    return KMeansGrouping(torch.rand(GROUPS, CLASSES).double(), 20.0)


def test_maxima_are_those_of_the_whole_product_with_its_gradient():
    p, h = double(2, CLASSES, 5, 4), double(2, GROUPS, 5, 4, seed=1)
    weight = torch.rand(2, GROUPS, CLASSES, dtype=torch.float64)
    plain = (h[:, :, None] * p[:, None]).amax((3, 4))
    assert torch.equal(maxima(p, h), plain)
    expected = torch.autograd.grad((plain * weight).sum(), (p, h))
    found = torch.autograd.grad((maxima(p, h) * weight).sum(), (p, h))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_source_learns_nothing_from_class_equivalence():
    step = step_of(*logits_of())
    ClassEquivalence()(step).backward()
    segmenter = step.network("segmenter")
    assert segmenter.target.grad.abs().sum() > 0
    assert segmenter.source.grad is None or not segmenter.source.grad.any()


def test_empty_groups_and_certain_pixels_have_finite_gradients():
    class Empty(nn.Module):
        def forward(self, maps):
            return torch.cat([torch.ones_like(maps[:, :1]), torch.zeros_like(maps[:, :2])], 1)

    certain = np.sign(random(2, CLASSES, 6, 7)) * 1e4
    step = step_of(certain, -certain, Empty())
    total = sum(loss(learnt=False)(step) for loss in LOSSES)
    total.backward()
    assert torch.isfinite(total)
    segmenter = step.network("segmenter")
    assert all(torch.isfinite(one.grad).all() for one in (segmenter.source, segmenter.target))
    assert float(orthogonality(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))) == 0


def test_everything_is_made_once_for_all_terms_and_freed_with_them():
    step = step_of(*logits_of())
    terms = [Weighted("segmentation", CrossEntropy())]
    terms += [Weighted(loss.__name__, loss(), 0.1) for loss in LOSSES]
    (phase,) = usual_phases(terms, {})
    (objective,) = phase.objectives
    assert set(objective.trains) == {"segmenter", "grouping"}
    assert len(objective.groups) == 1, "one graph for all"
    networks = {name: step.network(name) for name in objective.trains}
    table = {name: Network(one, sgd(one)) for name, one in networks.items()}
    training = Training(Networks(table), [phase], 1, lambda *_: iter(()), examine_every=1)
    backward(training, objective, step, share=1.0)
    assert networks["segmenter"].calls == networks["grouping"].calls == 2, "once per domain"
    assert {f"pull/{loss.__name__}" for loss in LOSSES} < step.recorded.keys()
    step.begin(["discriminator"])
    assert not Groups().means(step, "source").requires_grad, "the graph is let go of"
    step.changed(["grouping"])
    assert Groups().membership(step, "source").requires_grad
    assert networks["grouping"].calls == 3, "what an update made stale is made again"


def test_a_fixed_grouping_is_not_claimed_to_be_trained():
    for loss in LOSSES:
        assert loss(learnt=False).trains == ("segmenter",)
        assert loss(grouping="other").trains == ("segmenter", "other")
    assert default_networks({"learnt": False}) == {}
    ((name, described),) = default_networks({"grouping": "other"}).items()
    assert (name, described["kind"]) == ("other", "grouping")
    assert described["optimiser"] == {
        "kind": "sgd",
        "lr": 1e-3,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    }


def test_the_learnt_grouping_is_the_papers_for_a_batch_of_one():
    torch.manual_seed(0)
    network = grouping(19, groups=8)
    convolution, relu, _, last, soft = network
    assert (convolution.out_channels, last.out_channels) == (64, 8)
    norm = nn.BatchNorm2d(64).train()
    p = torch.randn(1, 19, 5, 6).softmax(1)
    plain = nn.Sequential(convolution, relu, norm, last, soft)
    torch.testing.assert_close(network(p), plain(p))
    torch.testing.assert_close(network.eval()(p), plain(p))  # the same in use as in training
    names = {name for name, _ in network.named_parameters()}
    assert {"2.weight", "2.bias"} <= names, "its normalisation is trained"
    assert not list(network.buffers()), "and there is nothing for processes to agree on"


def test_groupings_do_not_depend_on_the_rest_of_the_batch():
    torch.manual_seed(0)
    p = torch.randn(3, CLASSES, 5, 6).softmax(1)
    for network in (
        grouping(CLASSES, groups=GROUPS),
        FactorGrouping(torch.rand(GROUPS, CLASSES), 10),
        KMeansGrouping(torch.rand(GROUPS, CLASSES), 20.0),
    ):
        together = network(p)
        assert together.shape == (3, GROUPS, 5, 6)
        torch.testing.assert_close(together.sum(1), torch.ones(3, 5, 6))
        torch.testing.assert_close(together, torch.cat([network(one[None]) for one in p]))


def mixtures(seed=0, pixels=600):
    """Pixels of three groups over nine classes, [N, 9], and the group of each."""
    generator = np.random.default_rng(seed)
    group = generator.integers(0, 3, pixels)
    logits = generator.normal(size=(pixels, 9))
    logits[np.arange(pixels)[:, None], group[:, None] * 3 + np.arange(3)] += 7
    return np.apply_along_axis(softmax, 1, logits).astype(np.float32), group


@pytest.mark.parametrize("kind", GROUPINGS)
def test_fixed_groupings_recover_what_is_well_separated(kind):
    samples, _ = mixtures()
    fit = GROUPINGS[kind](groups=3)
    network = fit(samples, 7)
    assert not list(network.parameters())
    others, other_group = mixtures(seed=1)
    membership = network(torch.from_numpy(others).T[None, :, None])[0, :, 0]
    found = membership.argmax(0).numpy()
    pairs = set(zip(found.tolist(), other_group.tolist(), strict=True))
    assert len(pairs) == 3, "each group is one of theirs"
    if kind == "k_means":
        assert membership.amax(0).median() > 0.99, "soft only near borders"
    for name, buffer in network.state_dict().items():
        assert torch.equal(buffer, fit(samples, 7).state_dict()[name]), "the seed decides"


def test_k_means_groups_are_those_of_the_nearest_centre():
    torch.manual_seed(0)
    centres, p = torch.rand(5, CLASSES).double(), torch.rand(1, CLASSES, 6, 7).double()
    squared = (p[:, None] - centres[:, :, None, None]).square().sum(2)
    torch.testing.assert_close(KMeansGrouping(centres, 20.0)(p), (-20 * squared).softmax(1))
    hard = KMeansGrouping(centres, 1e5)(p)
    assert torch.equal(hard.argmax(1), squared.argmin(1))


def test_factors_are_what_least_squares_without_negatives_gives():
    from scipy.optimize import nnls

    generator = np.random.default_rng(0)
    basis = generator.random((GROUPS, 6)) ** 4
    basis /= basis.sum(1, keepdims=True)
    pixels = np.apply_along_axis(softmax, 1, generator.normal(size=(20, 6)) * 3)
    expected = np.stack([nnls(basis.T, pixel)[0] for pixel in pixels])
    expected /= expected.sum(1, keepdims=True)
    network = FactorGrouping(torch.from_numpy(basis), 500)
    found = network(torch.from_numpy(pixels).T[None, :, None])[0, :, 0].T
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)
    few = FactorGrouping(torch.from_numpy(basis), 10)(torch.from_numpy(pixels).T[None, :, None])
    assert np.abs(few[0, :, 0].T.numpy() - expected).max() < 0.1, "ten updates come near"


@pytest.mark.parametrize("build", [k_means_grouping, dff_grouping])
def test_an_empty_grouping_is_told(build):
    with pytest.raises(SegueError, match="the grouping is empty; give it `load_from`"):
        build(CLASSES, groups=GROUPS)(torch.rand(1, CLASSES, 3, 3))


@pytest.mark.parametrize("kind", GROUPINGS)
def test_too_few_different_pixels_are_told(kind):
    with pytest.raises(SegueError, match="2 different pixels do not make 3 groups"):
        GROUPINGS[kind](groups=3)(np.eye(2, dtype=np.float32).repeat(9, 0), 0)


def test_groups_are_measured_in_full_precision_under_autocast():
    source, target = logits_of()
    with torch.autocast("cpu", torch.bfloat16):
        half = [loss()(step_of(source, target)) for loss in LOSSES]
    plain = [loss()(step_of(source, target)) for loss in LOSSES]
    for one, other in zip(half, plain, strict=True):
        assert one.dtype == torch.float32
        assert float(one.detach()) == pytest.approx(float(other.detach()), rel=0.05)
    p = torch.rand(1, CLASSES, 40, 40).softmax(1)
    h = torch.rand(1, GROUPS, 40, 40).softmax(1)
    fixed = (
        KMeansGrouping(torch.rand(GROUPS, CLASSES), 20.0),
        FactorGrouping(torch.rand(GROUPS, CLASSES), 10),
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = [means(p, h), *(network(p) for network in fixed)]
    for one, other in zip(found, [means(p, h), *(n(p) for n in fixed)], strict=True):
        assert torch.equal(one, other)
