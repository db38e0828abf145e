"""CycleGAN with BDL's semantic term: its losses, networks, views, training and translation."""

import copy
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from segue import parts as tables
from segue.batch import Batch
from segue.errors import SegueError
from segue.losses.translation import (
    Cycle,
    Identity,
    Semantic,
    adversarial_networks,
    cycle_networks,
    generator_network,
    least_squares_adversarial,
)
from segue.models.generator import generator
from segue.models.patch_discriminator import patch_discriminator
from segue.models.segmenter import Output
from segue.models.weights import save_weights
from segue.runtime import processes as distributed
from segue.runtime.processes import World
from segue.training.loop import train
from segue.training.networks import Network, Networks
from segue.training.optimisers import OPTIMISERS, SCHEDULES
from segue.training.phases import Weighted, usual_phases
from segue.training.state import Follower, Training
from segue.training.step import Step
from segue.training.tracker import Tracker
from segue.translation.generator import generator_translation
from segue.views.generated import Generated
from segue.views.image_pool import ImagePool

CLASSES = 4


def random(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


class Made(nn.Module):
    """Stands for a generator: gives the image that a test states."""

    def __init__(self, image):
        super().__init__()
        self.image = nn.Parameter(torch.tensor(image))

    def forward(self, image):
        assert image.shape == self.image.shape
        return self.image


class Linear(nn.Module):
    """A segmenter that can be computed by hand: a matrix on colours, at half the resolution."""

    def __init__(self, seed=0):
        super().__init__()
        weight = 4 * random(CLASSES, 3, seed=seed) - 2
        self.weight = nn.Parameter(torch.tensor(weight), requires_grad=False)

    def forward(self, image):
        return Output(
            {"main": torch.einsum("cd,bdhw->bchw", self.weight, image[..., ::2, ::2])}, {}
        )

    def upsample(self, logits, size):
        return functional.interpolate(logits, size, mode="bilinear")


class Judge(nn.Module):
    """A discriminator that can be computed by hand, and keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, -1.3, 2.1]))
        self.shown = []

    def forward(self, image):
        self.shown.append(image)
        return torch.einsum("d,bdhw->bhw", self.weight, image)[:, None]


def step_of(made, source, target, **networks):
    batches = {"source": Batch(torch.tensor(source)), "target": Batch(torch.tensor(target))}
    table = {"to_target": Made(made), "segmenter": Linear(), "judge_target": Judge(), **networks}
    views = {"as_target": Generated(of="source", network="to_target")}
    return Step(batches, table, iteration=0, views=views)


IMAGES = [random(2, 3, 4, 6, seed=seed) for seed in range(3)]
WEIGHT = np.array([0.7, -1.3, 2.1], np.float32).astype(np.float64)


def scores_by_hand(image):
    return np.einsum("d,bdhw->bhw", WEIGHT, image.astype(np.float64))


def gradient_at_made(term, step):
    loss = term(step)
    assert loss.shape == ()
    loss.backward()
    return float(loss.detach()), step.network("to_target").image.grad


def test_fool_is_the_squared_distance_from_real():
    made = IMAGES[0]
    step = step_of(*IMAGES)
    found, gradient = gradient_at_made(least_squares_adversarial()["fool"], step)
    scores = scores_by_hand(made)
    assert found == pytest.approx(((scores - 1) ** 2).mean(), rel=1e-6)
    by_hand = 2 * (scores - 1)[:, None] * WEIGHT[:, None, None] / scores.size
    np.testing.assert_allclose(gradient, by_hand, atol=1e-7)


def test_tell_apart_is_half_of_both_sides_and_leaves_the_generator_alone():
    made, _, target = IMAGES
    step = step_of(*IMAGES)
    term = least_squares_adversarial()["tell_apart"]
    found, gradient = gradient_at_made(term, step)
    real, fake = scores_by_hand(target), scores_by_hand(made)
    assert gradient is None
    assert found == pytest.approx(((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2, rel=1e-6)
    by_hand = [
        ((real - 1)[:, None] * target + fake[:, None] * made)[:, channel].mean()
        for channel in range(3)
    ]
    np.testing.assert_allclose(step.network("judge_target").weight.grad, by_hand, rtol=1e-5)
    accuracy = ((real > 0.5).mean() + (fake <= 0.5).mean()) / 2
    assert float(step.recorded["accuracy/judge_target"]) == pytest.approx(accuracy)


def test_cycle_and_identity_are_mean_absolute_differences_on_the_scale_of_minus_1_to_1():
    made, source, target = (image.astype(np.float64) for image in IMAGES)
    cycle = Cycle(view="as_target", original="source")
    found, gradient = gradient_at_made(cycle, step_of(*IMAGES))
    assert found == pytest.approx(abs((2 * made - 1) - (2 * source - 1)).mean(), rel=1e-6)
    np.testing.assert_allclose(gradient, 2 * np.sign(made - source) / made.size, rtol=1e-6)
    identity = Identity(view="as_target", original="target")
    found, gradient = gradient_at_made(identity, step_of(*IMAGES))
    assert found == pytest.approx(abs((2 * made - 1) - (2 * target - 1)).mean(), rel=1e-6)
    np.testing.assert_allclose(gradient, 2 * np.sign(made - target) / made.size, rtol=1e-6)


def meaning_by_hand(image, compares):
    weight = Linear().weight.numpy().astype(np.float64)
    logits = np.einsum("cd,bdhw->bchw", weight, image.astype(np.float64)[..., ::2, ::2])
    if compares == "probabilities":
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean, variance = (f(logits, axis=(2, 3), keepdims=True) for f in (np.mean, np.var))
    return (logits - mean) / np.sqrt(variance + 1e-5)


@pytest.mark.parametrize("compares", ["probabilities", "normalised_logits"])
def test_semantic(compares):
    def by_hand(made):
        difference = meaning_by_hand(made, compares) - meaning_by_hand(IMAGES[1], compares)
        if compares == "probabilities":
            return np.abs(difference).sum(1).mean()
        return (difference**2).mean()

    made = IMAGES[0].astype(np.float64)
    step = step_of(*IMAGES)
    found, gradient = gradient_at_made(Semantic(compares=compares), step)
    assert found == pytest.approx(by_hand(made), rel=1e-5)
    assert step.network("segmenter").weight.grad is None
    for place in [(0, 0, 0, 0), (1, 2, 2, 4), (0, 1, 1, 1)]:
        nudge = np.zeros_like(made)
        nudge[place] = 1e-6
        slope = (by_hand(made + nudge) - by_hand(made - nudge)) / 2e-6
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_semantic_of_a_reconstruction_is_its_formula_and_trains_both_generators():
    """BDL's stronger term, M(S) against M(F^-1(F(S))), in float64: value and both gradients."""

    class Scaled(nn.Module):
        """A generator of one number for each colour."""

        def __init__(self, seed):
            super().__init__()
            scale = np.random.default_rng(seed).uniform(0.5, 1.5, 3)
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, image):
            return image * self.scale[:, None, None]

    source = IMAGES[1].astype(np.float64)
    weight = Linear().weight.numpy().astype(np.float64)

    def levelled(image):
        logits = np.einsum("cd,bdhw->bchw", weight, image[..., ::2, ::2])
        mean, variance = (f(logits, axis=(2, 3), keepdims=True) for f in (np.mean, np.var))
        return (logits - mean) / np.sqrt(variance + 1e-5)

    def by_hand(there, back):
        redrawn = source * there[:, None, None] * back[:, None, None]
        return ((levelled(redrawn) - levelled(source)) ** 2).mean()

    networks = {"to_target": Scaled(1), "to_source": Scaled(2), "segmenter": Linear().double()}
    views = {
        "as_target": Generated(of="source", network="to_target"),
        "back_to_source": Generated(of="as_target", network="to_source"),
    }
    step = Step({"source": Batch(torch.tensor(source))}, networks, iteration=0, views=views)
    both = ("to_target", "to_source")
    term = Semantic(after="back_to_source", generator=both)
    assert term.trains == both
    found = term(step)
    scales = [networks[name].scale.detach().numpy() for name in both]
    assert float(found.detach()) == pytest.approx(by_hand(*scales), rel=1e-12)
    found.backward()
    for index, name in enumerate(both):
        for channel in range(3):
            nudged = []
            for sign in (1, -1):
                moved = [one.copy() for one in scales]
                moved[index][channel] += sign * 1e-5
                nudged.append(by_hand(*moved))
            slope = (nudged[0] - nudged[1]) / 2e-5
            assert float(networks[name].scale.grad[channel]) == pytest.approx(slope, rel=1e-6)


def test_semantic_of_an_image_that_keeps_its_meaning_is_0():
    same = step_of(IMAGES[1], *IMAGES[1:])
    for compares in ("probabilities", "normalised_logits"):
        assert float(Semantic(compares=compares)(same).detach()) == 0


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (33, 31), (32, 12), (11, 8)])
def test_the_generator_keeps_any_size(size):
    torch.manual_seed(0)
    network = generator(width=4, blocks=1)
    image = torch.rand(2, 3, *size)
    redrawn = network(image)
    assert redrawn.shape == image.shape
    assert redrawn.min() >= 0
    assert redrawn.max() <= 1
    padded = functional.pad(image, (0, -size[1] % 4, 0, -size[0] % 4), mode="reflect")
    torch.testing.assert_close(redrawn, network(padded)[..., : size[0], : size[1]])


def test_the_generator_is_the_same_in_training_and_evaluation_and_keeps_precision():
    network = generator(width=4, blocks=2)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(network.train()(image), network.eval()(image))
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image).dtype == torch.float32


def test_networks_are_as_large_as_their_authors_say():
    """11.378 and 2.765 million parameters are what their code prints."""

    def millions(network):
        return round(sum(p.numel() for p in network.parameters()) / 1e6, 3)

    assert millions(generator()) == 11.378
    assert millions(patch_discriminator()) == 2.765
    weights = [p for p in patch_discriminator().parameters() if p.ndim == 4]
    assert all(float(w.detach().std()) == pytest.approx(0.02, rel=0.1) for w in weights)
    assert {"1.weight", "10.conv_block.1.weight", "18.conv_block.5.weight", "26.bias"} <= set(
        generator(width=2).state_dict()
    )


def test_a_score_sees_70_by_70_pixels():
    network = patch_discriminator(width=2)
    for name, layer in network.named_children():
        if isinstance(layer, nn.InstanceNorm2d):  # which looks at the whole image
            setattr(network, name, nn.Identity())
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    scores = network(image)
    assert scores.shape == (1, 1, 14, 14)
    scores[0, 0, 7, 7].backward()
    rows, columns = (image.grad[0].abs().sum(0).sum(axis).nonzero() for axis in (1, 0))
    assert len(rows) == len(columns) == 70


def test_images_that_are_too_small_are_told():
    with pytest.raises(SegueError, match="at least 8x8"):
        generator(width=2, blocks=1)(torch.rand(1, 3, 7, 20))
    with pytest.raises(SegueError, match="at least 24x24"):
        patch_discriminator(width=2)(torch.rand(1, 3, 23, 64))
    assert patch_discriminator(width=2)(torch.rand(1, 3, 24, 24)).numel() == 1
    with pytest.raises(SegueError, match="1 or more"):
        ImagePool(of="source", size=0)


def pool_step(iteration, images=1, slot=0, seed=0):
    """Each image is filled with its own number."""
    first = iteration * 100.0 + slot
    numbers = torch.arange(images) + first
    image = numbers[:, None, None, None].expand(images, 3, 2, 2).clone().requires_grad_()
    batch = Batch(image, torch.zeros(images, 2, 2).long(), names=("a",) * images)
    return Step({"source": batch}, {}, iteration=iteration, slot=slot, seed=seed)


def numbers(images):
    return [int(image[0, 0, 0]) for image in images]


def test_the_pool_fills_then_exchanges_half_of_what_it_is_shown():
    pool, held, exchanged, places = ImagePool(of="source", size=5), [], 0, []
    for iteration in range(400):
        step = pool_step(iteration)
        (new,), before = numbers(step.source.image), list(held)
        batch = pool(step)
        (shown,) = numbers(batch.image)
        assert not batch.image.requires_grad
        assert batch.label is None
        pool.after([step])
        held = numbers(pool.images)
        if iteration < 5:
            assert (shown, held) == (new, [*before, new])
        elif shown == new:
            assert held == before
        else:
            place = before.index(shown)
            assert held == [*before[:place], new, *before[place + 1 :]]
            exchanged += 1
            places.append(place)
    assert abs(exchanged - 395 / 2) < 4 * np.sqrt(395 / 4)
    assert np.bincount(places, minlength=5).min() > exchanged / 5 / 2


def test_the_pool_is_read_only_within_an_iteration():
    pool = ImagePool(of="source", size=3)
    for iteration in range(30):
        step = pool_step(iteration)
        before, shown = numbers(pool.images), numbers(pool(step).image)
        for again in (step, pool_step(iteration)):
            assert numbers(pool(again).image) == shown
        assert numbers(pool.images) == before
        pool.after([step])
        assert len(pool.images) == min(iteration + 1, 3)
    before = numbers(pool.images)
    pool.after([pool_step(30)])
    assert numbers(pool.images) == before, "nobody asked for the view"


def test_the_pool_does_not_depend_on_how_the_joint_batch_is_spread():
    whole, micro = ImagePool(of="source", size=5), ImagePool(of="source", size=5)
    for iteration in range(20):
        step = pool_step(iteration, images=4)
        shown = numbers(whole(step).image)
        whole.after([step])
        steps = [pool_step(iteration, images=2, slot=slot) for slot in (0, 2)]
        assert [one for step in steps for one in numbers(micro(step).image)] == shown
        micro.after(steps)
        assert numbers(micro.images) == numbers(whole.images)
    assert len(whole.images) == 5


def test_processes_hold_the_same_pool(monkeypatch):
    """Two processes, one image each, beside one that sees both images."""
    ranks, whole = (
        [ImagePool(of="source", size=5) for _ in range(2)],
        ImagePool(of="source", size=5),
    )
    for iteration in range(20):
        steps = [pool_step(iteration, slot=slot) for slot in (0, 1)]
        shown = [numbers(pool(step).image)[0] for pool, step in zip(ranks, steps, strict=True)]
        changes = [pool._pending.get(rank, []) for rank, pool in enumerate(ranks)]
        with monkeypatch.context() as patched:
            patched.setattr(distributed, "gather", lambda mine, world, all_of=changes: all_of)
            for pool, step in zip(ranks, steps, strict=True):
                pool.after([step])
        joint = pool_step(iteration, images=2)
        assert numbers(whole(joint).image) == shown
        whole.after([joint])
        assert numbers(ranks[0].images) == numbers(ranks[1].images) == numbers(whole.images)


def test_a_pool_goes_on_from_its_state():
    whole, first = ImagePool(of="source", size=3), ImagePool(of="source", size=3)
    shown = {}
    for iteration in range(20):
        step = pool_step(iteration)
        shown[iteration] = numbers(whole(step).image)
        whole.after([step])
        if iteration < 8:
            first(pool_step(iteration))
            first.after([pool_step(iteration)])
    second = ImagePool(of="source", size=3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for iteration in range(8, 20):
        assert numbers(second(pool_step(iteration)).image) == shown[iteration]
        second.after([pool_step(iteration)])
    assert numbers(second.images) == numbers(whole.images)


SIZE, BATCH = 24, 2
VIEWS = {"generated": Generated, "image_pool": ImagePool}
LOSSES = {
    "least_squares_adversarial": least_squares_adversarial,
    "cycle": Cycle,
    "identity": Identity,
    "semantic": Semantic,
}
BROUGHT = {
    "least_squares_adversarial": adversarial_networks,
    "cycle": cycle_networks,
    "identity": generator_network,
    "semantic": generator_network,
}
VIEW_SETTINGS = {
    "as_target": {"kind": "generated", "of": "source", "network": "to_target"},
    "as_source": {"kind": "generated", "of": "target", "network": "to_source"},
    "back_to_source": {"kind": "generated", "of": "as_target", "network": "to_source"},
    "back_to_target": {"kind": "generated", "of": "as_source", "network": "to_target"},
    "same_target": {"kind": "generated", "of": "target", "network": "to_target"},
    "same_source": {"kind": "generated", "of": "source", "network": "to_source"},
    "pooled_target": {"kind": "image_pool", "of": "as_target", "size": 2},
    "pooled_source": {"kind": "image_pool", "of": "as_source", "size": 2},
}
OTHER_WAY = {"generator": "to_source"}
TERMS = {
    "adversary_target": {"kind": "least_squares_adversarial", "shown": "pooled_target"},
    "adversary_source": {
        "kind": "least_squares_adversarial", "real": "source", "fake": "as_source",
        "shown": "pooled_source", "discriminator": "judge_source", **OTHER_WAY,
    },
    "cycle_source": {"kind": "cycle", "weight": 10},
    "cycle_target": {
        "kind": "cycle", "view": "back_to_target", "original": "target",
        "generators": ["to_source", "to_target"], "weight": 10,
    },
    "identity_target": {"kind": "identity", "weight": 5},
    "identity_source": {
        "kind": "identity", "view": "same_source", "original": "source", "weight": 5, **OTHER_WAY,
    },
    "semantic_source": {"kind": "semantic", "weight": 0.1},
    "semantic_target": {
        "kind": "semantic", "before": "target", "after": "as_source", "weight": 0.1, **OTHER_WAY,
    },
    "semantic_cycle_source": {
        "kind": "semantic", "after": "back_to_source", "weight": 10,
        "generator": ["to_target", "to_source"],
    },
    "semantic_cycle_target": {
        "kind": "semantic", "before": "target", "after": "back_to_target", "weight": 10,
        "generator": ["to_source", "to_target"],
    },
}  # fmt: skip
GENERATORS, JUDGES = {"to_target", "to_source"}, {"judge_target", "judge_source"}


def built_terms():
    found = []
    for name, settings in TERMS.items():
        rest = {key: value for key, value in settings.items() if key != "weight"}
        loss = tables.build(LOSSES, rest, where=name, what="loss")
        sides = loss.items() if isinstance(loss, dict) else [("", loss)]
        for index, (side, term) in enumerate(sides):
            weight = settings.get("weight", 1.0) if index == 0 else 1.0
            found.append(Weighted(f"{name}/{side}".strip("/"), term, weight))
    return found


def built_networks(iterations, seed=0):
    """What the losses bring along, at tiny widths, and a segmenter that nothing trains."""
    brought = {}
    for term in TERMS.values():
        brought |= BROUGHT[term["kind"]](term)
    assert set(brought) == GENERATORS | JUDGES
    table = {"segmenter": Network(Linear())}
    for position, (name, settings) in enumerate(brought.items()):
        torch.manual_seed(seed + position)
        make = {"generator": generator, "patch_discriminator": patch_discriminator}
        tiny = {"width": 4, **({"blocks": 1} if settings["kind"] == "generator" else {})}
        part = {"kind": settings["kind"], **tiny}
        module = tables.build(make, part, where=name, what="network", num_classes=CLASSES)
        optimiser = tables.build(
            OPTIMISERS, settings["optimiser"], where=name, what="optimiser", module=module
        )
        schedule = tables.build(
            SCHEDULES, settings["schedule"], where=name, what="schedule", iterations=iterations
        )
        table[name] = Network(module, optimiser, schedule)
    return Networks(table)


def draw(start, stop, interrupted=None):
    for iteration in range(start, stop):
        if iteration == interrupted:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(iteration)
        image = torch.rand(2, BATCH, 3, SIZE, SIZE, generator=generator)
        label = torch.randint(CLASSES, (BATCH, SIZE, SIZE), generator=generator)
        yield [{"source": Batch(image[0], label), "target": Batch(image[1])}]


def training_of(iterations, draw=draw):
    views = {
        name: tables.build(VIEWS, settings, where=name, what="view")
        for name, settings in VIEW_SETTINGS.items()
    }
    followers = {name: view for name, view in views.items() if isinstance(view, Follower)}
    assert set(followers) == {"pooled_target", "pooled_source"}
    phases = usual_phases(built_terms(), views)
    return Training(
        built_networks(iterations),
        phases,
        iterations,
        draw,
        views=views,
        followers=followers,
        seed=1,  # with which both pools exchange some images, not all, in the second iteration
    )


def run(folder, training):
    tracker = Tracker(folder, iterations=training.iterations, every=1, world=World())
    train(training, tracker, folder / "checkpoints", checkpoint_every=1)


def tensors(value):
    """Every tensor within a state, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    inner = inner if isinstance(value, dict | list | tuple) else ()
    return list(chain.from_iterable(tensors(one) for one in inner))


def test_objectives_and_groups_of_the_usual_phases():
    (phase,) = training_of(1).phases
    trained = [set(objective.trains) for objective in phase.objectives]
    assert trained == [GENERATORS, {"judge_target"}, {"judge_source"}]
    groups = [[term.name for term in group] for group in phase.objectives[0].groups]
    assert groups == [
        ["adversary_target/fool", "cycle_source", "semantic_source", "semantic_cycle_source"],
        ["adversary_source/fool", "cycle_target", "semantic_target", "semantic_cycle_target"],
        ["identity_target"],
        ["identity_source"],
    ]
    for objective, name in zip(phase.objectives[1:], ("target", "source"), strict=True):
        assert [term.name for term in objective.terms] == [f"adversary_{name}/tell_apart"]


def test_training_changes_generators_and_discriminators_alone(tmp_path):
    training = training_of(2)
    forwards = {name: [] for name in GENERATORS | JUDGES}
    for name, calls in forwards.items():
        training.networks[name].register_forward_hook(
            lambda module, given, made, calls=calls: calls.append(
                (given[0].requires_grad, made.requires_grad)
            )
        )
    before = copy.deepcopy({name: one.state_dict() for name, one in training.networks.items()})
    run(tmp_path, training)
    changed = {
        name
        for name, network in training.networks.items()
        for key, value in network.state_dict().items()
        if not torch.equal(value, before[name][key])
    }
    assert changed == GENERATORS | JUDGES, "the segmenter only judges meaning"
    for name in GENERATORS:
        # the fake, the way back of the other, itself: none runs again for the discriminators
        assert sorted(forwards[name]) == [(False, True)] * 4 + [(True, True)] * 2
    for name in JUDGES:
        # to fool it, then real and pooled images, of which none carries a graph
        assert sorted(forwards[name]) == [(False, True)] * 4 + [(True, True)] * 2
    pools = [training.followers[name].images for name in ("pooled_target", "pooled_source")]
    assert [len(pool) for pool in pools] == [2, 2]


def test_a_resumed_run_ends_with_the_same_bits_the_pool_included(tmp_path):
    whole = training_of(2)
    run(tmp_path / "whole", whole)
    first = training_of(2, lambda start, stop: draw(start, stop, interrupted=1))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", first)
    assert [len(one.images) for one in first.followers.values()] == [2, 2]
    second = training_of(2)
    assert [len(one.images) for one in second.followers.values()] == [0, 0]
    run(tmp_path / "parts", second)
    one, two = (tensors(training.state_dict()) for training in (whole, second))
    assert len(one) == len(two) > 100
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    old_and_new = [
        torch.equal(old, new)
        for name, pool in second.followers.items()
        for old, new in zip(first.followers[name].images, pool.images, strict=True)
    ]
    assert set(old_and_new) == {True, False}, "the second iteration exchanged some images"


def test_a_trained_generator_translates(tmp_path):
    torch.manual_seed(0)
    network = generator(width=4, blocks=2)
    save_weights(network, tmp_path / "cyclegan/networks/to_target.safetensors")
    translate = generator_translation(load_from="cyclegan", width=4, blocks=2, work_dir=tmp_path)
    source, target = torch.rand(2, 3, 18, 21), torch.rand(2, 3, 9, 9)
    translated = translate(source, target)
    assert torch.equal(translated, network(source))
    assert not translated.requires_grad
    # What it gives may be trained on, which inference tensors may not.
    nn.Conv2d(3, 1, 3)(translated).sum().backward()
    path = tmp_path / "cyclegan/networks/to_target.safetensors"
    by_file = generator_translation(
        load_from=str(path), width=4, blocks=2, work_dir=tmp_path / "other"
    )
    assert torch.equal(by_file(source, target), translated)


@pytest.mark.parametrize(("width", "blocks"), [(4, 2), (3, 1)])
def test_a_trained_generator_is_as_wide_and_deep_as_its_file(tmp_path, width, blocks):
    """A recipe that only names the stage, as the row of an ablation does, cannot know either."""
    network = generator(width=width, blocks=blocks)
    path = tmp_path / "cyclegan/networks/to_target.safetensors"
    save_weights(network, path)
    # As the authors' files have it.
    torch.save({f"model.{key}": x for key, x in network.state_dict().items()}, tmp_path / "g.pth")
    image = torch.rand(1, 3, 16, 20)
    for name in ("cyclegan", str(tmp_path / "g.pth")):
        translate = generator_translation(load_from=name, work_dir=tmp_path)
        assert torch.equal(translate(image, image), network(image))


def test_a_file_that_holds_no_generator_is_told(tmp_path):
    save_weights(nn.Linear(2, 2), tmp_path / "cyclegan/networks/to_target.safetensors")
    with pytest.raises(SegueError, match="fills 0 of the network's"):
        generator_translation(load_from="cyclegan", work_dir=tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"load_from": "nothing"}, "no generator 'to_target' in 'nothing'"),
        ({"load_from": "cyclegan", "network": "to_source"}, "no generator 'to_source'"),
        ({"load_from": "cyclegan", "width": 8, "blocks": 2}, "shape"),
        ({"load_from": "cyclegan", "width": 4, "blocks": 1}, "fills"),
        ({"load_from": "cyclegan", "width": 4, "blocks": 3}, "fills"),
    ],
)
def test_a_generator_that_is_not_there_or_another_is_told(tmp_path, settings, said):
    save_weights(generator(width=4, blocks=2), tmp_path / "cyclegan/networks/to_target.safetensors")
    with pytest.raises(SegueError, match=said) as caught:
        generator_translation(**settings, work_dir=tmp_path)
    assert "\n" not in str(caught.value)
