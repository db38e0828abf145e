"""Each equation against its formula written out, and what every loss of the table must keep."""

import inspect
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from segue.batch import Batch
from segue.errors import SegueError
from segue.losses import LOSS_NETWORKS, LOSSES
from segue.losses.adversarial import DiscriminatorInput, adversarial, domain_loss
from segue.losses.cross_entropy import CrossEntropy, cross_entropy
from segue.losses.entropy import MinEnt, self_information
from segue.models.segmenter import Output
from segue.models.table import NETWORKS
from segue.parts import build
from segue.pseudo_labels import decide, total
from segue.pseudo_labels.category_adaptive import CategoryAdaptive
from segue.pseudo_labels.confidence import Confidence
from segue.recipe.recipe import NetworkSettings
from segue.training.phases import Term
from segue.training.step import Step
from segue.views.generated import Generated
from segue.views.jittered import Jittered

CLASSES = 4


class Stated(nn.Module):
    """A segmenter whose logits are what a test states: [B, C, h, w] by the image's first value.

    So they are for images of one value. Where an image departs from its first value they grow or
    shrink, so that what makes an image can learn from them.
    """

    def __init__(self, **logits):
        super().__init__()
        self.logits = nn.ParameterDict(
            {name: nn.Parameter(torch.as_tensor(value).float()) for name, value in logits.items()}
        )

    def forward(self, image):
        stated = self.logits["target" if image[0, 0, 0, 0] == 1 else "source"]
        departs = (image - image[:, :1, :1, :1].detach()).mean(1, keepdim=True)
        shown = stated * (1 + functional.interpolate(departs, stated.shape[2:], mode="area"))
        feature = shown.repeat(1, 64, 1, 1).sigmoid()
        features = dict.fromkeys(("layer1", "layer2", "penultimate"), feature)
        return Output({"main": shown, "layer3": 2 * shown}, features)

    def upsample(self, logits, size):
        return functional.interpolate(logits, size, mode="bilinear", align_corners=True)


class Seen(nn.Module):
    """A discriminator that keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.shown = []
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, shown):
        self.shown.append(shown.detach())
        return shown.sum(1, keepdim=True) * self.scale


def random(*shape, seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


# CycleGAN's views of one direction, as its losses name them unless they are told otherwise.
MADE = {
    "as_target": Generated(of="source", network="to_target"),
    "back_to_source": Generated(of="as_target", network="to_source"),
    "same_target": Generated(of="target", network="to_target"),
}


def step_of(source, target, size, iteration=0, slot=0, label=None, texture=0, **networks):
    """A step whose predictions for the two domains are stated, at images of a size.

    `texture`, [B, 3, *size] and 0 in the first pixel, is what images are beyond one value.
    """
    batches = {
        "source": Batch(torch.zeros(len(source), 3, *size) + texture, label),
        "target": Batch(torch.ones(len(target), 3, *size) - texture),
    }
    table = {"segmenter": Stated(source=source, target=target), **networks}
    return Step(batches, table, iteration=iteration, slot=slot, views=MADE)


def log_softmax(logits):
    """[B, C, H, W] in float64, one pixel at a time."""
    logits = np.asarray(logits, np.float64)
    out = np.empty_like(logits)
    for b, y, x in np.ndindex(logits.shape[0], *logits.shape[2:]):
        row = logits[b, :, y, x]
        out[b, :, y, x] = row - row.max() - math.log(sum(math.exp(v - row.max()) for v in row))
    return out


def information(logits):
    """-p log p / log C of each class and pixel, in float64."""
    logp = log_softmax(logits)
    return -np.exp(logp) * logp / math.log(logits.shape[1])


def upsampled(logits, size):
    tensor = torch.as_tensor(np.asarray(logits)).double()
    return functional.interpolate(tensor, size, mode="bilinear", align_corners=True).numpy()


def number(loss):
    return float(loss.detach())


def softplus(value):
    return np.logaddexp(0, value)


def cross_entropy_by_hand(logits, label, weight=None):
    """Equation 1 of local alignment: a mean over labelled pixels for each image, then of images."""
    logp, images = log_softmax(logits), []
    for b in range(len(logits)):
        total, labelled = 0.0, 0
        for y, x in np.ndindex(*label.shape[1:]):
            if label[b, y, x] != 255:
                share = 1.0 if weight is None else weight[b, y, x]
                total -= share * logp[b, label[b, y, x], y, x]
                labelled += 1
        images.append(total / max(labelled, 1))
    return sum(images) / len(images)


def labels(seed=1, shape=(3, 5, 6)):
    label = np.random.default_rng(seed).integers(0, CLASSES, shape)
    label[0, :4] = 255  # images differ in how many pixels are labelled
    label[1, 0, 0] = 255
    return label


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(weighted):
    logits, label = random(3, CLASSES, 5, 6), labels()
    weight = np.random.default_rng(2).random(label.shape) if weighted else None
    found = cross_entropy(
        torch.tensor(logits),
        torch.tensor(label),
        torch.tensor(weight).float() if weighted else None,
    )
    assert float(found) == pytest.approx(cross_entropy_by_hand(logits, label, weight), abs=1e-5)


def test_cross_entropy_counts_an_unlabelled_image_as_0():
    label = torch.tensor(labels())
    label[0] = 255
    logits = torch.tensor(random(3, CLASSES, 5, 6))
    alone = cross_entropy(logits[1:], label[1:])
    assert float(cross_entropy(logits, label)) == pytest.approx(float(alone) * 2 / 3, rel=1e-6)
    assert float(cross_entropy(logits[:1], label[:1])) == 0


@pytest.mark.parametrize(("head", "factor"), [("main", 1), ("layer3", 2)])
def test_cross_entropy_term_is_taken_at_the_labels_size(head, factor):
    logits, label = random(3, CLASSES, 3, 2), labels()
    step = step_of(logits, logits, (5, 6), label=torch.tensor(label))
    expected = cross_entropy_by_hand(factor * upsampled(logits, (5, 6)), label)
    assert number(CrossEntropy(head=head)(step)) == pytest.approx(expected, abs=1e-5)


class OfColours(nn.Module):
    """A segmenter that can be computed by hand: a matrix on the colours of each pixel."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(random(CLASSES, 3, seed=5)).float())

    def forward(self, image):
        return Output({"main": torch.einsum("cd,bdhw->bchw", self.weight, image)}, {})

    def upsample(self, logits, size):
        assert logits.shape[2:] == size
        return logits


@pytest.mark.parametrize(
    "rule", [Confidence(cap=0.9, quantile=0.9), Confidence(cap=0.5), CategoryAdaptive()]
)
def test_consistency_and_pseudo_labels(rule):
    """Equation 5 of coarse-to-fine and 6 of category-adaptive thresholds, for each image divided
    by its kept pixels: labels and what is kept of T_{i-1} on the clean image, p of T_i on the
    jittered one or on the clean one itself."""
    before = [torch.tensor(random(CLASSES, 5, 6, seed=seed)).float().softmax(0) for seed in (6, 7)]
    counts = []
    for _ in range(rule.passes):
        counts.append(total(rule, before, counts))
    known = rule.settle(counts, CLASSES)
    label = torch.stack([torch.from_numpy(decide(known, p)).long() for p in before])
    target = Batch(torch.tensor(random(2, 3, 5, 6, seed=8, scale=0.2) + 0.5).float(), label)
    views = {"target_seen": Jittered(of="target")}
    step = Step({"target": target}, {"segmenter": OfColours()}, iteration=3, views=views)
    weight = step.network("segmenter").weight.detach().double().numpy()
    found = []
    for view in ("target_seen", "target"):
        image = step.view(view).image.double().numpy()
        images = []
        for p, one in zip(before, image, strict=True):
            p, loss, kept = p.double().numpy(), 0.0, 0
            for y, x in np.ndindex(*p.shape[1:]):
                guess, measured = p[:, y, x].argmax(), p[:, y, x].max()
                limit = known.thresholds[guess]
                if isinstance(rule, CategoryAdaptive):
                    measured = sum(v * math.log(v) for v in p[:, y, x])
                    limit = -limit
                if measured > limit:
                    scores = weight @ one[:, y, x]
                    loss -= scores[guess] - math.log(sum(math.exp(v) for v in scores))
                    kept += 1
            assert 0 < kept < p[0].size
            images.append(loss / kept)
        found.append(number(CrossEntropy(view=view)(step)))
        assert found[-1] == pytest.approx(sum(images) / len(images), abs=1e-5)
    assert found[0] != pytest.approx(found[1], abs=1e-3), "the jitter is seen"


def test_self_information():
    logits = random(2, CLASSES, 3, 4)
    found = self_information(torch.tensor(logits).log_softmax(1))
    np.testing.assert_allclose(found.numpy(), information(logits), atol=1e-12)
    entropy = found.sum(1)
    assert entropy.min() >= 0
    assert entropy.max() <= 1


def test_min_ent():
    logits = random(2, CLASSES, 3, 4)
    step = step_of(logits, logits, (6, 7))
    entropy = information(upsampled(logits, (6, 7))).sum(1)
    expected = np.mean([image.mean() for image in entropy])
    assert number(MinEnt()(step)) == pytest.approx(expected, abs=1e-6)


def test_min_ent_lies_between_certain_and_uniform():
    certain, uniform = np.zeros((1, CLASSES, 2, 2)), np.zeros((1, CLASSES, 2, 2))
    certain[:, 0] = 1e4
    assert number(MinEnt()(step_of(certain, certain, (2, 2)))) == 0
    assert number(MinEnt()(step_of(uniform, uniform, (2, 2)))) == pytest.approx(1)


@pytest.mark.parametrize("sees", ["probabilities", "self_information"])
@pytest.mark.parametrize("head", ["main", "layer3"])
def test_adversary(sees, head):
    """AdaptSegNet with probabilities, AdvEnt with self-information: BCE on logits, by hand."""
    source, target = random(2, CLASSES, 3, 4, seed=3), random(2, CLASSES, 3, 4, seed=4)
    torch.manual_seed(0)
    judge = nn.Conv2d(CLASSES, 1, 4, stride=2, padding=1)
    step = step_of(source, target, (8, 9), discriminator=judge)
    sides = adversarial(sees=sees, head=head)

    def scores(logits):
        grown = upsampled(logits, (8, 9)) * (2 if head == "layer3" else 1)
        shown = information(grown) if sees == "self_information" else np.exp(log_softmax(grown))
        kernel = judge.weight.detach().double().numpy()[0]
        padded = np.pad(shown, ((0, 0), (0, 0), (1, 1), (1, 1)))
        found = np.empty((2, 4, 4))
        for b, y, x in np.ndindex(*found.shape):
            found[b, y, x] = (
                padded[b, :, 2 * y : 2 * y + 4, 2 * x : 2 * x + 4] * kernel
            ).sum() + number(judge.bias)
        return found

    of_source, of_target = scores(source), scores(target)
    # BCE against label 0 is softplus(score), against 1 softplus(-score).
    fool = softplus(of_target).mean()
    tell_apart = (softplus(of_source).mean() + softplus(-of_target).mean()) / 2
    assert number(sides["fool"](step)) == pytest.approx(fool, abs=1e-6)
    assert number(sides["tell_apart"](step)) == pytest.approx(tell_apart, abs=1e-6)
    accuracy = ((of_source <= 0).mean() + (of_target > 0).mean()) / 2
    assert float(step.recorded["accuracy/discriminator"]) == pytest.approx(accuracy)


def test_domain_loss_of_undecided_scores():
    for label in (0.0, 1.0):
        assert float(domain_loss(torch.zeros(2, 1, 3, 3), label)) == pytest.approx(math.log(2))


# Vector units and the scalar code at the end of a row differ in the last place.
ROUNDING = 2e-7
WHOLE = (13, 17)
PATCH = (5, 7)


def patch_step(iteration=0, slot=0, images=slice(None), size=WHOLE, **networks):
    source = random(4, CLASSES, *size, seed=5)[images]
    target = random(4, CLASSES, *size, seed=6)[images]
    return step_of(source, target, size, iteration, slot, **networks)


def places(step, view, patch=PATCH, sees="self_information"):
    """Top-left corners of the patches that a discriminator is shown, found by their values."""
    whole = DiscriminatorInput(sees)(step, view)
    patches = DiscriminatorInput(sees, patch)(step, view)
    found = []
    for index, cut in enumerate(patches):
        near = (whole[index] - cut[:, :1, :1]).abs().amax(0) < ROUNDING
        ((top, left),) = near.nonzero().tolist()
        inside = whole[index, :, top : top + patch[0], left : left + patch[1]]
        torch.testing.assert_close(cut, inside, rtol=0, atol=ROUNDING)
        found.append((top, left))
    return found


@pytest.mark.parametrize("sees", ["probabilities", "self_information"])
def test_patches_are_exact_crops_of_the_whole_map(sees):
    step = patch_step()
    for view in ("source", "target"):
        assert len(places(step, view, sees=sees)) == 4


def test_patches_are_drawn_for_each_image_view_and_iteration():
    drawn = [
        (iteration, view, place)
        for iteration in range(40)
        for view in ("source", "target")
        for place in places(patch_step(iteration), view)
    ]
    assert len({place for _, _, place in drawn}) > 60, "of 99 places 320 draws leave few out"
    per_image = [place for it, view, place in drawn if it < 10 and view == "source"]
    assert len(set(per_image)) > 20, "images of a batch do not share a place"
    again = places(patch_step(7), "target")
    assert again == [place for it, view, place in drawn if (it, view) == (7, "target")]


def test_patches_lie_uniformly_and_independently_in_both_views():
    size, patch, draws = (6, 7), (4, 4), 300
    count, same = np.zeros((3, 4)), 0
    for iteration in range(draws):
        step = patch_step(iteration, size=size)
        source, target = (places(step, view, patch) for view in ("source", "target"))
        same += sum(a == b for a, b in zip(source, target, strict=True))
        for place in source + target:
            count[place] += 1
    expected = draws * 8 / 12
    chi_squared = ((count - expected) ** 2 / expected).sum()
    assert chi_squared < 31.3, "0.1 % of uniform draws exceed this with 11 degrees of freedom"
    assert abs(same - draws * 4 / 12) < 4 * math.sqrt(draws * 4 * 11 / 144)


def test_patches_do_not_depend_on_how_the_joint_batch_is_spread():
    whole = places(patch_step(3), "target")
    halves = [
        place
        for first in (0, 2)
        for place in places(patch_step(3, first, slice(first, first + 2)), "target")
    ]
    assert whole == halves


def test_the_patch_that_fools_is_the_patch_that_is_told_apart():
    seen = Seen()
    step = patch_step(discriminator=seen)
    sides = adversarial(patch=PATCH)
    step.begin(["segmenter"])
    sides["fool"](step).backward()
    step.free()
    step.begin(["discriminator"])
    sides["tell_apart"](step)
    fooled, source, target = seen.shown
    assert torch.equal(fooled, target)
    assert not torch.equal(source, target)
    assert fooled.shape == (4, CLASSES, *PATCH)


def test_a_side_is_a_square_patch():
    assert adversarial(patch=5)["fool"].shown.patch == (5, 5)


@pytest.mark.parametrize("patch", [(14, 7), (5, 18)])
def test_a_patch_that_does_not_fit_is_told(patch):
    with pytest.raises(SegueError, match=r"does not fit.*smaller patch") as caught:
        DiscriminatorInput(patch=patch)(patch_step(), "target")
    assert "\n" not in str(caught.value)
    assert DiscriminatorInput(patch=WHOLE)(patch_step(), "target").shape[-2:] == WHOLE


@pytest.mark.parametrize("patch", [None, 4])
def test_gradients_reach_the_segmenter_only_through_fool(patch):
    judge = nn.Conv2d(CLASSES, 1, 4, stride=2, padding=1)
    sides = adversarial(patch=patch)
    source, target = random(1, CLASSES, 4, 4), random(1, CLASSES, 4, 4, seed=1)

    def gradients(side):
        step = step_of(source, target, (8, 8), discriminator=judge)
        judge.zero_grad()
        sides[side](step).backward()
        logits = step.network("segmenter").logits
        return logits["source"].grad, logits["target"].grad, judge.weight.grad

    of_source, of_target, of_judge = gradients("fool")
    assert of_source is None
    assert of_target.abs().sum() > 0
    of_source, of_target, of_judge = gradients("tell_apart")
    assert of_source is None
    assert of_target is None
    assert of_judge.abs().sum() > 0


@pytest.mark.parametrize("size", [1e4, 200.0])
@pytest.mark.parametrize("loss", ["cross_entropy", "min_ent", "adversarial", "patches"])
def test_extremely_confident_logits_give_finite_gradients(loss, size):
    logits = np.sign(random(2, CLASSES, 8, 8)) * size
    judge = nn.Conv2d(CLASSES, 1, 4, stride=2, padding=1)
    label = torch.zeros(2, 8, 8).long()
    step = step_of(logits, logits, (8, 8), label=label, discriminator=judge)
    term = {
        "cross_entropy": CrossEntropy(),
        "min_ent": MinEnt(),
        "adversarial": adversarial()["fool"],
        "patches": adversarial(patch=4)["fool"],
    }[loss]
    value = term(step)
    value.backward()
    assert torch.isfinite(value)
    reached = "source" if loss == "cross_entropy" else "target"
    assert torch.isfinite(step.network("segmenter").logits[reached].grad).all()


def test_losses_are_computed_in_full_precision():
    logits = torch.tensor(random(2, CLASSES, 5, 6))
    half, label = logits.bfloat16(), torch.tensor(labels(shape=(2, 5, 6)))
    assert torch.equal(cross_entropy(half, label), cross_entropy(half.float(), label))
    assert domain_loss(half, 0.0).dtype == torch.float32


def sides_of(loss):
    return list(loss.values()) if isinstance(loss, dict) else [loss]


def brought(name):
    """The networks that a loss brings along, with unit vectors where a stage would fill them."""
    described = LOSS_NETWORKS[name]({}) if name in LOSS_NETWORKS else {}
    torch.manual_seed(0)
    made = {}
    for key, settings in described.items():
        network = NetworkSettings(**settings)
        part = {"kind": network.kind, **network.arguments}
        made[key] = build(NETWORKS, part, where=name, what="network", num_classes=CLASSES)
        for buffer in made[key].buffers():
            if buffer.ndim == 2 and not buffer.any():
                buffer.copy_(functional.normalize(torch.randn(buffer.shape)))
    return made


def drawn(*size):
    """Stated logits, labels and texture of two images."""
    texture = torch.tensor(np.random.default_rng(7).random((2, 3, *size))).float()
    texture[..., 0, 0] = 0
    return random(2, CLASSES, *size), torch.tensor(labels(shape=(2, *size))), texture


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_tells_what_it_is(name):
    parts = [LOSSES[name], *(type(side) for side in sides_of(LOSSES[name]()))]
    for part in parts:
        first = (inspect.getdoc(part) or "").splitlines()[0]
        assert re.fullmatch(r"[^.].*[^.]\.", first), f"{part.__name__}: a first line that ends"
        assert ". " not in first, f"{part.__name__}: one sentence"
    assert any(">>> " in (inspect.getdoc(part) or "") for part in parts), "an example that runs"
    assert any(re.search(r"\b(19|20)\d\d\b", inspect.getdoc(part) or "") for part in parts), "paper"


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_works_from_its_defaults(name):
    """A scalar whose gradient reaches each network that its terms say they train."""
    size = (32, 64)
    for side in sides_of(LOSSES[name]()):
        side: Term
        assert side.views
        assert side.trains
        assert all(isinstance(one, str) for one in (*side.views, *side.trains))
        logits, label, texture = drawn(*size)
        step = step_of(logits, -logits, size, label=label, texture=texture, **brought(name))
        value = side(step)
        assert value.shape == ()
        assert torch.isfinite(value)
        value.backward()
        for network in side.trains:
            found = [p.grad for p in step.network(network).parameters() if p.grad is not None]
            assert sum(float(gradient.abs().sum()) for gradient in found) > 0


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_mean_over_images(name):
    """Twice the same images give the same loss, and two images the mean of each alone."""
    size, networks = (32, 32), brought(name)
    logits, label, texture = drawn(*size)
    for side in sides_of(LOSSES[name]()):

        def of(index, side=side):
            own = {"label": label[index], "texture": texture[index]}
            return number(side(step_of(logits[index], -logits[index], size, **own, **networks)))

        both = of([0, 1])
        assert both == pytest.approx((of([0]) + of([1])) / 2, rel=1e-5)
        assert both == pytest.approx(of([0, 1, 0, 1]), rel=1e-5)


def test_networks_are_brought_by_losses_that_exist():
    assert LOSS_NETWORKS.keys() <= LOSSES.keys()
