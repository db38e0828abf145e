"""Groups, objectives and phases: who is trained on what, when, and from which weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from segue.batch import Batch
from segue.losses.adversarial import adversarial
from segue.losses.cross_entropy import CrossEntropy
from segue.losses.entropy import MinEnt
from segue.models.segmenter import Output
from segue.runtime.processes import World
from segue.training.loop import backward, train
from segue.training.networks import Network, Networks
from segue.training.phases import Objective, Phase, Weighted, connected, usual_phases
from segue.training.state import Training
from segue.training.step import Step
from segue.training.tracker import Tracker

CLASSES, SIZE = 4, 8


class Tiny(nn.Module):
    """A segmenter of one convolution that counts its forwards and may watch them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, CLASSES, 1)
        self.forwards = 0
        self.watch: Callable[[], None] = lambda: None

    def forward(self, image):
        self.forwards += 1
        self.watch()
        return Output({"main": self.body(image)}, {})

    def upsample(self, logits, size):
        return functional.interpolate(logits, size, mode="bilinear")


@dataclass(frozen=True)
class Custom:
    function: Callable[[Step], Any]
    views: tuple[str, ...] = ("target",)
    trains: tuple[str, ...] = ("segmenter",)

    def __call__(self, step):
        return self.function(step)


@dataclass(frozen=True)
class View:
    parents: tuple[str, ...] = ()


def names(groups):
    return [[weighted.name for weighted in group] for group in groups]


def terms(**found):
    return [Weighted(name, term) for name, term in found.items()]


def objective(views=(), **found):
    return Objective(("segmenter",), tuple(terms(**found)), dict(views))


@given(st.lists(st.frozensets(st.integers(0, 6), max_size=3), max_size=8))
def test_connected_is_the_finest_partition_that_keeps_sharers_together(keys):
    items = list(enumerate(keys))
    groups = connected(items, lambda item: item[1])
    assert sorted(item for group in groups for item in group) == items
    firsts = [min(group) for group in groups]
    assert firsts == sorted(firsts), "groups stand in order of appearance"
    covers = [frozenset().union(*(item[1] for item in group)) for group in groups]
    for index, cover in enumerate(covers):
        assert not any(cover & other for other in covers[index + 1 :])
    for group in groups:
        reached, rest = set(group[:1]), set(group[1:])
        while more := {a for a in rest if any(a[1] & b[1] for b in reached)}:
            reached, rest = reached | more, rest - more
        assert not rest, "nothing is in a group without a reason"


def test_terms_of_one_view_share_a_group():
    one = objective(
        source=CrossEntropy(),
        fool=adversarial()["fool"],
        source_again=CrossEntropy(head="layer3"),
        entropy=MinEnt(),
    )
    assert names(one.groups) == [["source", "source_again"], ["fool", "entropy"]]


def test_a_term_of_two_views_ties_their_groups():
    both = Custom(lambda _: 0, ("source", "target"))
    one = objective(source=CrossEntropy(), target=MinEnt(), both=both)
    assert names(one.groups) == [["source", "target", "both"]]


def test_a_view_that_shares_its_parents_graph_shares_their_group():
    views = {"as_target": View(("source",)), "back": View(("as_target",)), "mixed": View()}
    found = {
        "back": Custom(lambda _: 0, ("back",)),
        "mixed": Custom(lambda _: 0, ("mixed",)),
        "source": CrossEntropy(),
        "target": MinEnt(),
    }
    assert names(objective(views, **found).groups) == [["back", "source"], ["mixed"], ["target"]]


def test_usual_phases_of_an_adversary():
    sides = adversarial()
    phases = usual_phases(
        terms(seg=CrossEntropy(), fool=sides["fool"], tell=sides["tell_apart"]), {}
    )
    (phase,) = phases
    assert phase.repeat == 1
    assert phase.trains == ("segmenter", "discriminator")
    assert [names([one.terms]) for one in phase.objectives] == [[["seg", "fool"]], [["tell"]]]


def test_networks_that_a_term_trains_together_are_one_objective():
    joint = Custom(lambda _: 0, trains=("segmenter", "grouping"))
    sides = adversarial()
    (phase,) = usual_phases(
        terms(seg=CrossEntropy(), tell=sides["tell_apart"], joint=joint, fool=sides["fool"]), {}
    )
    assert [one.trains for one in phase.objectives] == [
        ("segmenter", "grouping"),
        ("discriminator",),
    ]


def test_a_phase_trains_each_network_once():
    first, second = objective(a=CrossEntropy()), objective(b=MinEnt())
    assert Phase((first, second)).trains == ("segmenter",)


def judge():
    return nn.Conv2d(CLASSES, 1, 4, stride=2, padding=1)


def sgd(module, lr=0.1):
    groups = [{"params": list(module.parameters()), "lr": lr, "base_lr": lr}]
    return Network(module, torch.optim.SGD(groups, lr=lr))


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 2, 3, SIZE, SIZE, generator=generator)
    label = torch.randint(CLASSES, (2, SIZE, SIZE), generator=generator)
    return {"source": Batch(image[0], label), "target": Batch(image[1])}


def run(tmp_path, table, phases, iterations=1, micro=1):
    def draw(start, stop):
        for iteration in range(start, stop):
            yield [batch(iteration * micro + index) for index in range(micro)]

    training = Training(Networks(table), phases, iterations, draw)
    train(training, Tracker(tmp_path, iterations=iterations, every=1, world=World()),
          tmp_path, checkpoint_every=iterations)  # fmt: skip


@pytest.fixture
def table():
    torch.manual_seed(0)
    return {"segmenter": sgd(Tiny()), "discriminator": sgd(judge())}


def adversary(weight=0.5):
    sides = adversarial(sees="probabilities")
    return [
        Weighted("seg", CrossEntropy()),
        Weighted("fool", sides["fool"], weight),
        Weighted("tell", sides["tell_apart"]),
    ]


@pytest.mark.parametrize("micro", [1, 2])
def test_one_iteration_is_what_it_is_by_hand(tmp_path, table, micro):
    """Both networks' gradients come from the same weights, averaged over the micro batches."""
    segmenter = copy.deepcopy(table["segmenter"].module)
    discriminator = copy.deepcopy(table["discriminator"].module)
    run(tmp_path, table, usual_phases(adversary(), {}), micro=micro)

    generator_loss, judge_loss = torch.zeros(()), torch.zeros(())
    softplus = functional.softplus
    for index in range(micro):
        drawn = batch(index)
        source = segmenter.body(drawn["source"].image)
        target = segmenter.body(drawn["target"].image)
        fooled = discriminator(target.softmax(1))
        seg = functional.cross_entropy(source, drawn["source"].label)
        generator_loss = generator_loss + (seg + 0.5 * softplus(fooled).mean()) / micro
        told = [discriminator(one.softmax(1).detach()) for one in (source, target)]
        told_apart = softplus(told[0]).mean() / 2 + softplus(-told[1]).mean() / 2
        judge_loss = judge_loss + told_apart / micro
    for module, loss, name in (
        (segmenter, generator_loss, "segmenter"),
        (discriminator, judge_loss, "discriminator"),
    ):
        parameters = list(module.parameters())
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        after = table[name].module.parameters()
        for before, gradient, found in zip(parameters, gradients, after, strict=True):
            torch.testing.assert_close(found, before - 0.1 * gradient)


def test_one_forward_serves_all_objectives(tmp_path, table):
    run(tmp_path, table, usual_phases(adversary(), {}), iterations=3)
    assert table["segmenter"].module.forwards == 6, "source and target, three times"


def test_the_order_of_separate_phases_counts(tmp_path, table):
    """Two phases: the discriminator then sees the updated segmenter."""
    together = copy.deepcopy(table)
    seg, fool, tell = adversary()
    apart = [
        Phase((Objective(("segmenter",), (seg, fool), {}),)),
        Phase((Objective(("discriminator",), (tell,), {}),)),
    ]
    run(tmp_path / "apart", table, apart)
    run(tmp_path / "together", together, usual_phases(adversary(), {}))
    assert table["segmenter"].module.forwards == 4
    for name, same in (("segmenter", True), ("discriminator", False)):
        pairs = zip(
            table[name].module.parameters(), together[name].module.parameters(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs) is same


def test_a_repeated_phase_updates_each_time_from_a_new_forward(tmp_path, table):
    seg, _, tell = adversary()
    segmenter = copy.deepcopy(table["segmenter"].module)
    phases = [
        Phase((Objective(("discriminator",), (tell,), {}),)),
        Phase((Objective(("segmenter",), (seg,), {}),), repeat=3),
    ]
    run(tmp_path, table, phases)
    # Source and target for the discriminator; its source is thrown away by the first update.
    assert table["segmenter"].module.forwards == 2 + 3
    drawn = batch(0)["source"]
    optimiser = torch.optim.SGD(segmenter.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        functional.cross_entropy(segmenter.body(drawn.image), drawn.label).backward()
        optimiser.step()
    for found, expected in zip(
        table["segmenter"].module.parameters(), segmenter.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_other_networks_get_no_gradient(table):
    networks = Networks(table)
    training = Training(networks, (), 1, lambda *_: iter(()))
    step = Step(batch(0), networks, iteration=0)
    first, second = usual_phases(adversary(), {})[0].objectives

    def reached():
        return {
            name: all(p.grad is not None for p in module.parameters())
            for name, module in networks.items()
        }

    backward(training, first, step, share=1)
    assert reached() == {"segmenter": True, "discriminator": False}
    before = copy.deepcopy([p.grad for p in networks["segmenter"].parameters()])
    backward(training, second, step, share=1)
    assert reached() == {"segmenter": True, "discriminator": True}
    for gradient, parameter in zip(before, networks["segmenter"].parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)


def test_two_objectives_of_one_network_add_up(table):
    networks = Networks(table)
    training = Training(networks, (), 1, lambda *_: iter(()))
    step = Step(batch(0), networks, iteration=0)
    for one in (objective(a=CrossEntropy()), objective(b=MinEnt())):
        backward(training, one, step, share=1)
    separate = [p.grad.clone() for p in networks["segmenter"].parameters()]
    networks["segmenter"].zero_grad()
    step = Step(batch(0), networks, iteration=0)
    backward(training, objective(a=CrossEntropy(), b=MinEnt()), step, share=1)
    for one, parameter in zip(separate, networks["segmenter"].parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


def test_the_sources_graph_is_gone_before_the_target_runs(table):
    """One backward for everything would hold both graphs at once."""
    segmenter = table["segmenter"].module
    networks = Networks(table)
    training = Training(networks, (), 1, lambda *_: iter(()))
    step = Step(batch(0), networks, iteration=0)
    saved, at_forward = [0], []

    class Held:
        def __init__(self, tensor):
            self.tensor = tensor
            saved[0] += 1

        def __del__(self):
            saved[0] -= 1

    segmenter.watch = lambda: at_forward.append(saved[0])
    first, second = usual_phases(adversary(), {})[0].objectives
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        backward(training, first, step, share=1)
        assert at_forward == [0, 0], "source, then target, each with no graph beside it"
        assert saved == [0]
        backward(training, second, step, share=1)
    assert saved == [0]
    assert segmenter.forwards == 2


def test_freed_graphs_are_recorded_as_numbers(table):
    networks = Networks(table)
    step = Step(batch(0), networks, iteration=0)
    training = Training(networks, (), 1, lambda *_: iter(()))
    for one in usual_phases(adversary(), {})[0].objectives:
        backward(training, one, step, share=0.5)
    assert step.recorded.keys() >= {"loss/seg", "loss/fool", "loss/tell"}
    assert not any(value.requires_grad for value in step.recorded.values())
    expected = CrossEntropy()(Step(batch(0), networks, iteration=0))
    torch.testing.assert_close(step.recorded["loss/seg"], expected.detach())
