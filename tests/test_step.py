"""What is computed once, what is forgotten when, and what is let go."""

import gc
import weakref
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from segue.batch import Batch
from segue.errors import SegueError
from segue.models.segmenter import Output
from segue.training.step import Prediction, Step, detached


class Counting(nn.Module):
    """A tiny segmenter that counts its forwards."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 4, 1)
        self.forwards = 0

    def forward(self, image):
        self.forwards += 1
        feature = self.body(image[..., ::2, ::2])
        return Output({"main": feature, "layer3": 2 * feature}, {"layer1": feature})

    def upsample(self, logits, size):
        return functional.interpolate(logits, size, mode="bilinear")


class Painter(nn.Module):
    """A trained network that makes images of images."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 3, 1)

    def forward(self, image):
        return self.body(image).sigmoid()


@dataclass(frozen=True)
class Painted:
    """The source as the painter paints it."""

    parents: tuple[str, ...] = ("source",)

    def __call__(self, step):
        return replace(step.source, image=step.network("painter")(step.source.image))


@pytest.fixture
def networks():
    return {"segmenter": Counting(), "painter": Painter(), "judge": nn.Conv2d(4, 1, 1)}


@pytest.fixture
def step(networks):
    batches = {
        "source": Batch(torch.rand(2, 3, 6, 8), torch.zeros(2, 6, 8).long(), names=("a", "b")),
        "target": Batch(torch.rand(2, 3, 6, 8), names=("c", "d")),
    }
    step = Step(batches, networks, iteration=3, views={"painted": Painted()}, seed=1)
    step.begin(["segmenter"])
    return step


def test_a_forward_runs_once_for_each_view(step, networks):
    assert step.predict("source") is step.predict("source")
    step.predict("target").upsampled()
    step.predict("target").log_probabilities("layer3")
    assert networks["segmenter"].forwards == 2


def test_a_prediction_computes_each_thing_once(step):
    prediction = step.predict("source")
    assert prediction.upsampled() is prediction.upsampled()
    assert prediction.probabilities() is prediction.probabilities()
    assert prediction.log_probabilities() is not prediction.log_probabilities("layer3")
    assert prediction.upsampled().shape == (2, 4, 6, 8)
    torch.testing.assert_close(prediction.probabilities().sum(1), torch.ones(2, 6, 8))


def test_an_update_is_seen_by_the_next_forward(step, networks):
    before = step.predict("source").upsampled().detach().clone()
    with torch.no_grad():
        networks["segmenter"].body.bias.add_(1)
    assert torch.equal(step.predict("source").upsampled(), before), "until it is told"
    step.changed(["judge"])
    assert torch.equal(step.predict("source").upsampled(), before), "of another network"
    step.changed(["segmenter"])
    torch.testing.assert_close(step.predict("source").upsampled(), before + 1)
    assert networks["segmenter"].forwards == 2


def test_whatever_was_computed_from_a_prediction_is_forgotten_with_it(step):
    scores = step.once("scores", lambda: step.network("judge")(step.predict("source").logits()))
    assert step.once("scores", list) is scores
    for name in ("segmenter", "judge"):
        step.once("scores", lambda: step.network("judge")(step.predict("source").logits()))
        step.changed([name])
        assert step.once("scores", lambda: "anew") == "anew"
        step.changed(["segmenter", "judge"])
        step._known.clear()


def test_dependence_passes_through_what_was_known_already(step):
    step.predict("source")
    step.once("first", lambda: step.predict("source").logits().mean())
    step.once("second", lambda: step.once("first", list) * 2)
    step.changed(["segmenter"])
    assert step.once("second", lambda: "anew") == "anew"


def test_a_prediction_of_a_made_view_depends_on_its_maker(step, networks):
    step.predict("painted")
    assert step.view("painted") is step.view("painted")
    step.changed(["painter"])
    step.predict("painted")
    assert networks["segmenter"].forwards == 2


def test_drawn_batches_are_never_forgotten(step, networks):
    source = step.source
    step.changed(networks)
    step.begin(list(networks))
    step.free()
    assert step.source is source
    assert step.view("source") is source
    assert step.names == ("a", "b", "c", "d")


def test_a_later_objective_sees_the_same_values_without_gradient(step, networks):
    prediction = step.predict("target")
    values = prediction.probabilities()
    feature = prediction.feature("layer1")
    assert values.requires_grad
    step.begin(["judge"])
    later = step.predict("target")
    assert networks["segmenter"].forwards == 1
    for kept, was in ((later.probabilities(), values), (later.feature("layer1"), feature)):
        assert torch.equal(kept, was)
        assert not kept.requires_grad
    assert not later.upsampled("layer3").requires_grad, "what is computed only now, too"
    assert not later.logits().requires_grad


def test_a_feature_that_is_not_there_is_told(step):
    with pytest.raises(SegueError, match=r"no feature is called 'layer9' \(there: layer1\)"):
        step.predict("target").feature("layer9")
    step.begin(["judge"])
    with pytest.raises(SegueError, match=r"list it in the term's `features`"):
        step.predict("target").feature("layer1")


def test_an_objective_that_trains_a_network_runs_it_anew(step, networks):
    step.predict("target")
    step.begin(["segmenter", "judge"])
    assert step.predict("target").logits().requires_grad
    assert networks["segmenter"].forwards == 2


def test_views_are_made_once_and_seen_detached_later(step):
    image = step.view("painted").image
    assert image.requires_grad
    step.begin(["segmenter"])
    assert torch.equal(step.view("painted").image, image)
    assert not step.view("painted").image.requires_grad
    step.begin(["painter"])
    assert step.view("painted").image.requires_grad


def test_values_stay_and_graphs_go_when_freed(step):
    loss = step.predict("source").probabilities().mean()
    values = step.predict("source").probabilities().detach().clone()
    of_graph = [
        weakref.ref(step.predict("source").logits()),
        weakref.ref(step.predict("source").upsampled()),
        weakref.ref(step.once("extra", lambda: [step.predict("source").logits() * 2])[0]),
    ]
    loss.backward()
    gc.collect()
    assert all(tensor() is not None for tensor in of_graph)
    step.free()
    gc.collect()
    assert all(tensor() is None for tensor in of_graph)
    step.begin(["judge"])
    assert torch.equal(step.predict("source").probabilities(), values)


def test_a_graph_that_was_freed_is_not_asked_for_again(step, networks):
    step.predict("source").logits().mean().backward()
    step.free()
    with pytest.raises(RuntimeError, match=r"'predict', 'source'.*list the view"):
        step.predict("source")
    step.predict("target").logits().mean().backward()
    step.begin(["judge"])
    step.predict("source")
    assert networks["segmenter"].forwards == 2


def test_what_needs_no_gradient_survives_being_freed(step, networks):
    step.begin(["judge"])
    teacher = step.predict("target")
    step.network("judge")(teacher.logits()).mean().backward()
    step.free()
    assert torch.equal(step.predict("target").logits(), teacher.logits())
    assert networks["segmenter"].forwards == 1


def test_a_computation_that_fails_leaves_nothing_behind(step, networks):
    def fails():
        step.network("judge")
        raise KeyError("x")

    with pytest.raises(KeyError):
        step.once("value", fails)
    assert step.once("value", lambda: 5) == 5
    step.changed(["judge"])
    assert step.once("value", lambda: 6) == 5, "the failed one does not count"


def test_numbers_are_recorded_without_their_graph(step):
    step.record("loss/x", step.predict("source").logits().mean())
    assert not step.recorded["loss/x"].requires_grad


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def test_detached_knows_containers():
    value = torch.ones(2, requires_grad=True) * 1
    batch = Batch(value, label=torch.zeros(2))
    prediction = Prediction(Output({"main": value}, {"layer1": value}), lambda x, _: x, (1, 1))
    nested = {"a": [value, (value, 3)], "b": Pair(value, value), "c": batch, "d": prediction}
    found = detached(nested)
    assert isinstance(found["b"], Pair)
    assert found["a"][1][1] == 3
    assert found["c"].label is batch.label
    tensors = [found["a"][0], found["a"][1][0], *found["b"], found["c"].image, found["d"].logits()]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert value.requires_grad


def draw(name="crop", image=None, **changes):
    step = Step({}, {}, **{"iteration": 5, "seed": 1, "slot": 2, **changes})
    return torch.rand(4, generator=step.random(name, image)).tolist()


def test_a_random_choice_is_a_function_of_what_it_is_for():
    usual = draw()
    assert draw() == usual
    others = [
        draw("flip"),
        draw(iteration=6),
        draw(seed=2),
        draw(slot=3),
        draw(image=0),
        draw(image=1),
    ]
    assert len({tuple(one) for one in [usual, *others]}) == 7


def test_a_choice_for_an_image_depends_on_its_place_in_the_joint_batch_alone():
    for place in range(4):
        assert draw(slot=0, image=place) == draw(slot=place, image=0)


def test_random_choices_leave_torch_alone():
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = draw()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(4)
    assert draw() == first


def test_random_choices_are_spread_evenly():
    values = torch.tensor([draw(iteration=it, image=im)[0] for it in range(50) for im in range(8)])
    counts = torch.histc(values, 8, 0, 1)
    assert ((counts - 50).square() / 50).sum() < 24.3, "0.1 % of uniform draws exceed it"
