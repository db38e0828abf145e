"""Style losses against their formulas written out, and who learns from which of them."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from segue.batch import Batch
from segue.errors import SegueError
from segue.losses.cross_entropy import CrossEntropy
from segue.losses.style import (
    StyleGram,
    StyleMoments,
    default_networks,
    gram,
    moments,
    style_adversarial,
)
from segue.models.discriminator import discriminator
from segue.models.segmenter import Output
from segue.models.style_discriminator import style_discriminator
from segue.parts import build
from segue.runtime.processes import World
from segue.training.loop import train
from segue.training.networks import Network, Networks
from segue.training.optimisers import OPTIMISERS, SCHEDULES
from segue.training.phases import Weighted, usual_phases
from segue.training.state import Training
from segue.training.step import Step
from segue.training.tracker import Tracker

SHAPES = {"layer1": (16, 5, 6), "layer2": (20, 3, 4)}
LAYERS = tuple(SHAPES)


class Stated(nn.Module):
    """A segmenter whose features are what a test states, by the image's first value."""

    def __init__(self, source, target):
        super().__init__()
        self.source, self.target = (
            nn.ParameterDict({name: nn.Parameter(x.clone()) for name, x in given.items()})
            for given in (source, target)
        )

    def forward(self, image):
        shown = self.target if image[0, 0, 0, 0] == 1 else self.source
        return Output({"main": shown["layer1"]}, dict(shown.items()))

    def upsample(self, logits, size):
        return functional.interpolate(logits, size)


def features(seed, images=2):
    generator = np.random.default_rng(seed)
    return {
        name: torch.tensor(generator.normal(size=(images, *shape)) + generator.normal())
        for name, shape in SHAPES.items()
    }


def step_of(source, target, **networks):
    batches = {
        "source": Batch(torch.zeros(2, 3, 8, 8)),
        "target": Batch(torch.ones(2, 3, 8, 8)),
    }
    table = {"segmenter": Stated(source, target), **networks}
    return Step(batches, table, iteration=0)


def judges(seed=0, widths=(3, 4, 5)):
    torch.manual_seed(seed)
    return {f"style_{name}": style_discriminator(widths=widths) for name in LAYERS}


def convolved(x, layer):
    """A 1-D convolution of kernel 4, stride 2, padding 1: [channels in, L] -> [out, L / 2]."""
    weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
    padded = np.pad(x, ((0, 0), (1, 1)))
    places = (padded.shape[1] - 4) // 2 + 1
    out = np.empty((len(weight), places))
    for channel, place in np.ndindex(*out.shape):
        window = padded[:, 2 * place : 2 * place + 4]
        out[channel, place] = (window * weight[channel]).sum() + bias[channel]
    return out


def scores_by_hand(feature, judge):
    """Per image: means over pixels, four convolutions, LeakyReLU 0.2 between."""
    found = []
    for image in feature.numpy():
        x = np.array([[image[channel].mean() for channel in range(len(image))]])
        layers = [layer for layer in judge if isinstance(layer, nn.Conv1d)]
        assert len(layers) == 4
        for index, layer in enumerate(layers):
            x = convolved(x, layer)
            if index < 3:
                x = np.where(x > 0, x, 0.2 * x)
        found.append(x)
    return np.array(found)


def softplus(value):
    return np.logaddexp(0, value)


@pytest.mark.parametrize("moves", ["source", "target"])
def test_adversary(moves):
    """The source's means are scored against the target's label, or the other way round."""
    source, target, brought = features(1), features(2), judges()
    step, sides = step_of(source, target, **brought), style_adversarial(moves=moves)
    fool = tell_apart = 0.0
    for name in LAYERS:
        of_source, of_target = (
            scores_by_hand(one[name], brought[f"style_{name}"]) for one in (source, target)
        )
        # BCE against label 0 is softplus(score), against 1 softplus(-score).
        fool += (softplus(-of_source) if moves == "source" else softplus(of_target)).mean()
        tell_apart += (softplus(of_source).mean() + softplus(-of_target).mean()) / 2
    assert float(sides["fool"](step).detach()) == pytest.approx(fool, abs=1e-5)
    assert float(sides["tell_apart"](step).detach()) == pytest.approx(tell_apart, abs=1e-5)
    for name in LAYERS:
        of_source, of_target = (
            scores_by_hand(one[name], brought[f"style_{name}"]) for one in (source, target)
        )
        accuracy = ((of_source <= 0).mean() + (of_target > 0).mean()) / 2
        assert float(step.recorded[f"accuracy/style_{name}"]) == pytest.approx(accuracy)


def gram_by_hand(x):
    """[D, D] means over pixels of products of channels."""
    channels, height, width = x.shape
    found = np.zeros((channels, channels))
    for a, b in np.ndindex(channels, channels):
        found[a, b] = sum(x[a, y, z] * x[b, y, z] for y, z in np.ndindex(height, width))
    return found / (height * width)


def moments_by_hand(x):
    means = np.array([channel.mean() for channel in x])
    variances = [((c - m) ** 2).mean() for c, m in zip(x, means, strict=True)]
    return means, np.array([math.sqrt(v + 1e-5) for v in variances])


def test_gram():
    source, target = features(1), features(2)
    expected = 0.0
    for name in LAYERS:
        pairs = zip(source[name].numpy(), target[name].numpy(), strict=True)
        errors = [((gram_by_hand(a) - gram_by_hand(b)) ** 2).mean() for a, b in pairs]
        expected += sum(errors) / len(errors)
    found = StyleGram()(step_of(source, target))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_gram_is_four_times_that_of_gatys():
    """Gatys et al., equation 4: sums of products, error / (4 N^2 M^2)."""
    a, b = features(1)["layer1"][:1], features(2)["layer1"][:1]
    channels, pixels = a.shape[1], a.shape[2] * a.shape[3]
    plain = [(x.flatten(2) @ x.flatten(2).mT)[0] for x in (a, b)]
    gatys = (plain[0] - plain[1]).square().sum() / (4 * channels**2 * pixels**2)
    ours = functional.mse_loss(gram(a)[0], gram(b)[0])
    assert float(ours) == pytest.approx(4 * float(gatys))


def test_moments():
    source, target = features(1), features(2)
    expected = 0.0
    for name in LAYERS:
        pairs = list(zip(source[name].numpy(), target[name].numpy(), strict=True))
        for which in (0, 1):
            errors = [
                ((moments_by_hand(a)[which] - moments_by_hand(b)[which]) ** 2).mean()
                for a, b in pairs
            ]
            expected += sum(errors) / len(errors)
    found = StyleMoments()(step_of(source, target))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("statistics", [gram, moments])
def test_gradients_of_statistics(statistics):
    feature = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 2, 4)), requires_grad=True)
    assert torch.autograd.gradcheck(statistics, feature)


def test_a_constant_channel_has_finite_gradients():
    feature = torch.ones(1, 2, 3, 3, requires_grad=True)
    sum(one.sum() for one in moments(feature)).backward()
    assert torch.isfinite(feature.grad).all()


@pytest.mark.parametrize("loss", [StyleGram, StyleMoments])
def test_equal_styles_differ_by_nothing_wherever_pixels_are(loss):
    source = features(1)
    shuffled = {name: x.flip(2, 3) for name, x in source.items()}
    assert float(loss()(step_of(source, shuffled)).detach()) == pytest.approx(0, abs=1e-10)
    others = {name: x.flip(0) for name, x in source.items()}
    assert float(loss()(step_of(source, others)).detach()) > 1e-4, "image i goes with image i"


@pytest.mark.parametrize("loss", [StyleGram, StyleMoments])
def test_squared_errors_teach_the_segmenter_from_both_sides(loss):
    step = step_of(features(1), features(2))
    assert loss().views == ("source", "target")
    assert loss().trains == ("segmenter",)
    loss()(step).backward()
    for side in (step.network("segmenter").source, step.network("segmenter").target):
        assert all(side[name].grad.any() for name in LAYERS)


def test_features_are_chosen():
    source, target, brought = features(1), features(2), judges()
    step = step_of(source, target, **brought)
    whole = sum(
        float(side(step).detach())
        for name in LAYERS
        for side in [style_adversarial(features=(name,))["fool"]]
    )
    assert whole == pytest.approx(float(style_adversarial()["fool"](step).detach()))
    assert style_adversarial(features=("layer2",))["tell_apart"].trains == ("style_layer2",)


@pytest.mark.parametrize(
    ("moves", "side", "moved"),
    [
        (None, "fool", "source"),  # section 2.3: the style of the source moves
        ("source", "fool", "source"),
        ("target", "fool", "target"),
        (None, "tell_apart", None),
        ("target", "tell_apart", None),
    ],
)
def test_who_learns(moves, side, moved):
    brought = judges()
    step = step_of(features(1), features(2), **brought)
    style_adversarial(**({"moves": moves} if moves else {}))[side](step).backward()
    mine = step.network("segmenter")
    for domain in ("source", "target"):
        styles = getattr(mine, domain).values()
        assert all((x.grad is not None) == (domain == moved) for x in styles), domain
    assert all(p.grad.any() for judge in brought.values() for p in judge.parameters())


def test_style_discriminator():
    judge = style_discriminator()
    layers = [layer for layer in judge if isinstance(layer, nn.Conv1d)]
    channels = [(one.in_channels, one.out_channels) for one in layers]
    assert channels == [(1, 64), (64, 128), (128, 256), (256, 1)]
    assert {(one.kernel_size, one.stride, one.padding) for one in layers} == {((4,), (2,), (1,))}
    slopes = [layer.negative_slope for layer in judge if not isinstance(layer, nn.Conv1d)]
    assert slopes == [0.2] * 3
    assert judge(torch.zeros(2, 1, 512)).shape == (2, 1, 32)
    assert judge(torch.zeros(2, 1, 16)).shape == (2, 1, 1)
    with pytest.raises(SegueError, match="is shown 15 channels; show it at least 16"):
        judge(torch.zeros(2, 1, 15))


def test_default_networks_can_be_built():
    described = default_networks({"features": ("layer2", "layer3"), "discriminator": "judge"})
    assert list(described) == ["judge_layer2", "judge_layer3"]
    for settings in described.values():
        optimiser = build(
            OPTIMISERS, settings["optimiser"], where="", what="", module=style_discriminator()
        )
        assert optimiser.defaults["lr"] == 1e-4
        assert optimiser.defaults["betas"] == (0.9, 0.99)
        schedule = build(SCHEDULES, settings["schedule"], where="", what="", iterations=120000)
        assert [round(schedule(i), 9) for i in (0, 49999, 50000, 100000)] == [1, 1, 0.1, 0.01]
    assert list(default_networks({})) == ["style_layer1", "style_layer2"]


def test_output_discriminator_that_is_16_times_smaller():
    torch.manual_seed(0)
    usual = discriminator(5)
    torch.manual_seed(0)
    small = discriminator(5, last="3x3")
    convolutions = [layer for layer in small if isinstance(layer, nn.Conv2d)]
    assert [one.kernel_size[0] for one in convolutions] == [4, 4, 4, 4, 3]
    assert [one.stride[0] for one in convolutions] == [2, 2, 2, 2, 1]
    assert [one.out_channels for one in convolutions] == [64, 128, 256, 512, 1]
    assert small(torch.zeros(1, 5, 64, 128)).shape == (1, 1, 4, 8)
    assert usual(torch.zeros(1, 5, 64, 128)).shape == (1, 1, 2, 4)
    assert small(torch.zeros(1, 5, 16, 16)).shape == (1, 1, 1, 1)
    with pytest.raises(SegueError, match="at least 16x16"):
        small(torch.zeros(1, 5, 15, 64))
    with pytest.raises(SegueError, match="at least 32x32"):
        usual(torch.zeros(1, 5, 31, 64))
    common = [key for key in usual.state_dict() if not key.startswith("8.")]
    assert all(torch.equal(usual.state_dict()[key], small.state_dict()[key]) for key in common)


class TinySegmenter(nn.Module):
    """Two stages and a head."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.layer2 = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.main = nn.Conv2d(24, 4, 1)

    def forward(self, image):
        first = self.layer1(image).relu()
        second = self.layer2(first).relu()
        return Output({"main": self.main(second)}, {"layer1": first, "layer2": second})

    def upsample(self, logits, size):
        return functional.interpolate(logits, size, mode="bilinear")


def draw(start, stop):
    for iteration in range(start, stop):
        generator = torch.Generator().manual_seed(iteration)
        image = torch.rand(2, 2, 3, 16, 16, generator=generator)
        label = torch.randint(4, (2, 16, 16), generator=generator)
        yield [{"source": Batch(image[0], label), "target": Batch(image[1])}]


def terms_of(*sides):
    weighted = [Weighted("segmentation", CrossEntropy())]
    return weighted + [Weighted(name, term) for name, term in sides]


def trained(tmp_path, terms, **brought):
    """Networks before and after two iterations of the loop, and what was recorded."""
    torch.manual_seed(0)
    table = {}
    for name, module in {"segmenter": TinySegmenter(), **brought}.items():
        groups = [{"params": list(module.parameters()), "lr": 0.1, "base_lr": 0.1}]
        table[name] = Network(module, torch.optim.SGD(groups, lr=0.1))
    before = {name: copy.deepcopy(one.module) for name, one in table.items()}
    training = Training(Networks(table), usual_phases(terms, {}), iterations=2, draw=draw)
    tracker = Tracker(tmp_path, iterations=2, every=1, world=World())
    recorded = {}
    note = tracker.note
    tracker.note = lambda i, numbers: (recorded.setdefault(i, dict(numbers)), note(i, numbers))
    train(training, tracker, tmp_path, checkpoint_every=2)
    return before, {name: one.module for name, one in table.items()}, recorded


@pytest.mark.parametrize(
    ("moves", "expected"),
    [("source", [["segmentation", "fool"]]), ("target", [["segmentation"], ["fool"]])],
)
def test_the_source_is_backpropagated_before_the_discriminators_turn(moves, expected, tmp_path):
    """The segmenter's source group has freed its graph when styles of the source are asked for."""
    sides = style_adversarial(moves=moves)
    terms = terms_of(*sides.items())
    objectives = usual_phases(terms, {})[0].objectives
    assert [one.trains for one in objectives] == [
        ("segmenter",),
        ("style_layer1", "style_layer2"),
    ]
    groups = [[one.name for one in group] for group in objectives[0].groups]
    assert groups == expected
    before, after, recorded = trained(tmp_path, terms, **judges())
    for name, module in after.items():
        old = before[name].state_dict()
        assert any(not torch.equal(v, old[k]) for k, v in module.state_dict().items()), name
    first = next(draw(0, 1))[0]
    output = {role: before["segmenter"](batch.image).features for role, batch in first.items()}
    step = step_of(
        *({k: x.detach() for k, x in output[role].items()} for role in ("source", "target")),
        **{name: before[name] for name in ("style_layer1", "style_layer2")},
    )
    for name, side in sides.items():
        found = float(recorded[0][f"loss/{name}"])
        assert found == pytest.approx(float(side(step).detach()), abs=1e-6)


def test_one_forward_of_each_view_is_enough(tmp_path, monkeypatch):
    forwards, forward = [], TinySegmenter.forward

    def counted(self, image):
        forwards.append(len(image))
        return forward(self, image)

    monkeypatch.setattr(TinySegmenter, "forward", counted)
    trained(tmp_path, terms_of(*style_adversarial().items()), **judges())
    assert len(forwards) == 4, "two views in two iterations"


@pytest.mark.parametrize("loss", [StyleGram, StyleMoments])
def test_squared_errors_share_the_sources_forward_with_cross_entropy(loss, tmp_path):
    terms = terms_of(("style", loss()))
    (objective,) = usual_phases(terms, {})[0].objectives
    assert [[one.name for one in group] for group in objective.groups] == [
        ["segmentation", "style"]
    ]
    _, _, recorded = trained(tmp_path, terms)
    assert all(math.isfinite(numbers["loss/style"]) for numbers in recorded.values())
