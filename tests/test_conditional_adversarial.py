"""The adversary of groups against the outer product built plainly, values and gradients."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from segue.batch import Batch
from segue.errors import SegueError
from segue.losses.adversarial import adversarial, patches
from segue.losses.conditional_adversarial import (
    conditional_adversarial,
    default_networks,
    sum_one_by_one,
)
from segue.losses.cross_entropy import CrossEntropy
from segue.losses.grouping import GroupConsistency, Groups
from segue.models.conditional_discriminator import conditional_discriminator, fold
from segue.models.grouping import KMeansGrouping, grouping
from segue.models.segmenter import Output
from segue.training.loop import backward
from segue.training.networks import Network, Networks
from segue.training.optimisers import adam, sgd
from segue.training.phases import Weighted, usual_phases
from segue.training.state import Training
from segue.training.step import Step

CLASSES, GROUPS, SIZE = 4, 3, (36, 40)
WIDTHS = (6, 5, 4, 3)


class Stated(nn.Module):
    """A segmenter whose logits are what a test states, by the image's first value."""

    def __init__(self, source, target):
        super().__init__()
        self.source, self.target = (nn.Parameter(one.clone()) for one in (source, target))

    def forward(self, image):
        return Output({"main": self.target if image[0, 0, 0, 0] == 1 else self.source}, {})

    def upsample(self, logits, size):
        return functional.interpolate(logits, size, mode="bilinear", align_corners=True)


def judge(widths=WIDTHS, scale=30.0):
    """A discriminator whose scores differ: Q is small, so its first weights are made larger."""
    network = conditional_discriminator(CLASSES, widths=widths)
    with torch.no_grad():
        network.layers[0].weight.mul_(scale)
    return network


def step_of(sizes=(2, 2), groups=GROUPS, seed=0, size=SIZE, **networks):
    torch.manual_seed(seed)
    source, target = (2 * torch.randn(n, CLASSES, 7, 9) for n in sizes)
    table = {
        "segmenter": Stated(source, target),
        "grouping": grouping(CLASSES, groups=groups, hidden=5),
        "discriminator": judge(),
        **networks,
    }
    batches = {
        "source": Batch(torch.zeros(sizes[0], 3, *size), torch.zeros(sizes[0], *size).long()),
        "target": Batch(torch.ones(sizes[1], 3, *size)),
    }
    return Step(batches, table, iteration=3, seed=5)


def outer(f, q):
    """F x Q of [B, C, H, W] and [B, C]: [B, C * C, H, W], channel i * C + j being F_i Q_j."""
    return (f[:, :, None] * q[:, None, :, None, None]).flatten(1, 2)


def plainly(step, view, label, cut=lambda maps: maps):
    """Equation 4's sum over groups for one domain, from the outer product, in float64."""
    segmenter, groups, discriminator = (
        copy.deepcopy(step.network(name)).double()
        for name in ("segmenter", "grouping", "discriminator")
    )
    shown = {"source": segmenter.source, "target": segmenter.target}[view]
    p = segmenter.upsample(shown, step.view(view).size).softmax(1)
    h = groups(p)
    loss = 0.0
    for k in range(h.shape[1]):
        f = h[:, k : k + 1] * p
        q = f.mean((2, 3))
        per_image = []
        for image in range(len(p)):
            scores = discriminator.layers(outer(cut(f)[image, None], q[image, None]))
            # -log sigmoid(score) against 1, -log(1 - sigmoid(score)) against 0.
            per_image.append(functional.softplus(-scores if label else scores).mean())
        loss = loss + sum(per_image) / len(per_image)
    return loss, {"segmenter": segmenter, "grouping": groups, "discriminator": discriminator}


def assert_same_gradients(networks, expected):
    for name, network in expected.items():
        for (which, one), other in zip(
            network.named_parameters(), networks(name).parameters(), strict=True
        ):
            if one.grad is None:
                assert other.grad is None or not other.grad.any(), f"{name}.{which}"
                continue
            scale = float(one.grad.abs().max())
            torch.testing.assert_close(
                other.grad.double(), one.grad, rtol=1e-3, atol=1e-4 * scale, msg=f"{name}.{which}"
            )


@pytest.mark.parametrize("groups", [1, GROUPS])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2)])
def test_fool(groups, sizes):
    step = step_of(sizes, groups)
    loss = conditional_adversarial()["fool"](step)
    expected, networks = plainly(step, "target", 0)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    loss.backward()
    expected.backward()
    assert networks["segmenter"].target.grad.abs().max() > 0
    assert_same_gradients(step.network, networks)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 2)])
def test_tell_apart(sizes):
    step = step_of(sizes)
    loss = conditional_adversarial()["tell_apart"](step)
    of_source, networks = plainly(step, "source", 0)
    of_target, others = plainly(step, "target", 1)
    expected = (of_source + of_target) / 2
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    loss.backward()
    expected.backward()
    mine = step.network("discriminator").parameters()
    pairs = zip(*(one["discriminator"].parameters() for one in (networks, others)), strict=True)
    for own, (a, b) in zip(mine, pairs, strict=True):
        whole = a.grad + b.grad
        atol = 1e-4 * float(whole.abs().max())
        torch.testing.assert_close(own.grad.double(), whole, rtol=1e-3, atol=atol)
    for name in ("segmenter", "grouping"):
        assert all(one.grad is None for one in step.network(name).parameters())


def test_accuracy_is_over_groups_and_places():
    step = step_of()
    conditional_adversarial()["tell_apart"](step)
    network, right = step.network("discriminator"), []
    for view, label in (("source", 0), ("target", 1)):
        p, h, q = (
            one(step, view) for one in (Groups().predicted, Groups().membership, Groups().means)
        )
        scores = torch.stack([network(h[:, k : k + 1] * p, q[:, k]) for k in range(GROUPS)])
        right.append(((scores > 0) == bool(label)).double().mean())
    assert float(step.recorded["accuracy/discriminator"]) == pytest.approx(float(sum(right) / 2))


def test_a_patch_is_cut_from_the_groups_and_not_from_the_condition():
    size = (32, 34)
    step = step_of()
    sides = conditional_adversarial(patch=size)
    for view, side, label in (("target", "fool", 0), ("source", None, 0)):
        expected, networks = plainly(
            step, view, label, cut=lambda maps, view=view: patches(step, view, maps, size)
        )
        if side is None:
            continue
        loss = sides[side](step)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
        loss.backward()
        expected.backward()
        assert_same_gradients(step.network, networks)
    halves = [
        plainly(step, view, label, cut=lambda m, view=view: patches(step, view, m, size))[0]
        for view, label in (("source", 0), ("target", 1))
    ]
    found = float(sides["tell_apart"](step).detach())
    assert found == pytest.approx(float(sum(halves).detach()) / 2, rel=1e-6)
    whole = float(conditional_adversarial()["fool"](step).detach())
    assert float(sides["fool"](step).detach()) != pytest.approx(whole, rel=1e-6)


def test_patches_are_drawn_as_those_of_local_alignment():
    step = step_of(discriminator=nn.Conv2d(CLASSES, 1, 1))
    shown = adversarial(sees="probabilities", patch=20)["fool"].shown(step, "target")
    probabilities = step.predict("target").probabilities()
    torch.testing.assert_close(patches(step, "target", probabilities, (20, 20)), shown)
    with pytest.raises(SegueError, match=r"a patch of \(50, 50\) does not fit"):
        conditional_adversarial(patch=50)["fool"](step)


def test_the_folded_kernel_is_the_outer_product():
    torch.manual_seed(0)
    network = conditional_discriminator(CLASSES, widths=(6, 5)).double()
    assert network.layers[0].weight.shape == (6, CLASSES**2, 4, 4)
    f = torch.rand(3, CLASSES, 8, 9, dtype=torch.float64, requires_grad=True)
    q = torch.rand(3, CLASSES, dtype=torch.float64, requires_grad=True)
    found, plain = network(f, q), network.layers(outer(f, q))
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-14)
    inputs = (f, q, *network.parameters())
    weight = torch.rand_like(plain)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
    assert torch.autograd.gradcheck(network, (f[:1, :, :, :8], q[:1]))


def test_kernels_are_folded_in_full_precision_under_autocast():
    weight, condition = torch.rand(5, CLASSES**2, 4, 4), torch.rand(2, CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fold(weight, condition), plain := fold(weight, condition))
        assert plain.dtype == torch.float32


def test_under_autocast_the_input_gradient_is_made_in_full_precision():
    torch.manual_seed(0)
    network = judge(scale=3.0)
    f, q = torch.rand(1, CLASSES, 64, 64), torch.rand(1, CLASSES)
    blocks = network.blocks(f).requires_grad_()
    first = torch.nn.Sequential(network.layers[0])
    alone = type(network)(first).score(blocks, q)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(type(network)(first).score(blocks, q), alone)
        half = network.score(blocks, q)
    assert half.dtype == torch.bfloat16, "all other layers are"
    one, other = (
        torch.autograd.grad(score.float().square().sum(), blocks)[0]
        for score in (half, network.score(blocks, q))
    )
    assert float((one - other).norm() / other.norm()) < 0.05


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (32, 35), (37, 41)])
def test_blocks_of_any_size(size):
    torch.manual_seed(0)
    network = conditional_discriminator(CLASSES, widths=WIDTHS).double()
    f, q = torch.rand(2, CLASSES, *size).double(), torch.rand(2, CLASSES).double()
    torch.testing.assert_close(network(f, q), network.layers(outer(f, q)), rtol=1e-12, atol=1e-14)


def test_it_is_the_discriminator_of_the_field_on_all_products():
    with pytest.raises(SegueError, match="is shown 31x40 pixels; show it at least 32x32"):
        conditional_discriminator(CLASSES)(torch.zeros(1, CLASSES, 40, 31), torch.ones(1, CLASSES))
    layers = conditional_discriminator(19).layers
    widths = [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)]
    assert (layers[0].in_channels, widths) == (361, [64, 128, 256, 512, 1])


def test_sums_one_by_one_are_sums():
    torch.manual_seed(0)
    network = nn.Linear(3, 1).double()
    whole = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    groups = [torch.rand(5, 1, dtype=torch.float64, requires_grad=True) for _ in range(6)]

    def loss(common, a, b):
        return (network(common * a) * b).tanh().mean()

    def one_by_one(common, *flat):
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        return 3 * sum_one_by_one(loss, common, pairs, network)

    assert torch.autograd.gradcheck(one_by_one, (whole, *groups))
    inputs = (whole, *groups, *network.parameters())
    plain = 3 * sum(loss(whole, a, b) for a, b in zip(groups[::2], groups[1::2], strict=True))
    # Twice, as where each term's pull is measured before the step.
    found = one_by_one(whole, *groups)
    for _ in range(2):
        gradients = torch.autograd.grad(found, inputs, retain_graph=True)
        for one, other in zip(
            gradients, torch.autograd.grad(plain, inputs, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(one, other)
    network.requires_grad_(False)
    held = sum_one_by_one(loss, whole.detach(), [(groups[0].detach(), groups[1].detach())], network)
    assert not held.requires_grad


def training_of(step, names, **more):
    optimisers = {"discriminator": adam}
    table = {
        name: Network(step.network(name), optimisers.get(name, sgd)(step.network(name)))
        for name in names
    }
    fixed = {name: Network(one.requires_grad_(False)) for name, one in more.items()}
    return Training(Networks(table | fixed), [], 1, lambda *_: iter(()), examine_every=1)


@pytest.mark.parametrize("learnt", [True, False])
def test_in_the_loop_each_side_trains_its_own_networks(learnt):
    sides = conditional_adversarial(learnt=learnt)
    fixed = {} if learnt else {"grouping": KMeansGrouping(torch.rand(GROUPS, CLASSES), 20.0)}
    step = step_of(**fixed)
    terms = [Weighted("segmentation", CrossEntropy()), Weighted("fool", sides["fool"], 0.1)]
    terms += [Weighted("consistency", GroupConsistency(learnt=learnt), 0.1)]
    terms += [Weighted("tell_apart", sides["tell_apart"])]
    (phase,) = usual_phases(terms, {})
    learners = ("segmenter", "grouping") if learnt else ("segmenter",)
    assert [one.trains for one in phase.objectives] == [learners, ("discriminator",)]
    training = training_of(step, [*learners, "discriminator"], **fixed)
    backward(training, phase.objectives[0], step, share=1.0)
    assert "pull/fool" in step.recorded
    for name in (*learners, "discriminator"):
        learns = any(p.grad is not None and p.grad.any() for p in step.network(name).parameters())
        assert learns == (name in learners)
    before = {name: gradients_of(step.network(name)) for name in learners}
    backward(training, phase.objectives[1], step, share=1.0)
    assert all(p.grad is not None for p in step.network("discriminator").parameters())
    for name, gradients in before.items():
        for one, other in zip(gradients, gradients_of(step.network(name)), strict=True):
            assert torch.equal(one, other), f"the discriminator's loss moves {name}"


def gradients_of(network):
    return [p.grad.clone() for p in network.parameters()]


def test_bfloat16_gives_gradients_near_those_of_float32():
    found = []
    for enabled in (False, True):
        step = step_of()
        sides = conditional_adversarial()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = sides["fool"](step) + sides["tell_apart"](step)
        loss.backward()
        networks = [step.network(name) for name in ("segmenter", "grouping", "discriminator")]
        found.append((loss.detach(), [flat_gradient(network) for network in networks]))
    (loss, plain), (half_loss, half) = found
    assert half_loss.dtype == torch.float32
    assert float(half_loss) == pytest.approx(float(loss), rel=0.02)
    for one, other in zip(half, plain, strict=True):
        assert float(functional.cosine_similarity(one, other, dim=0)) > 0.95


def flat_gradient(network):
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_networks_that_it_brings():
    brought = default_networks({})
    assert list(brought) == ["discriminator", "grouping"]
    assert brought["discriminator"] == {
        "kind": "conditional_discriminator",
        "optimiser": {"kind": "adam", "lr": 1e-4, "betas": [0.9, 0.99]},
    }
    assert list(default_networks({"learnt": False, "discriminator": "other"})) == ["other"]
