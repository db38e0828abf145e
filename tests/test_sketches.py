"""Eight methods written on the contracts, on tiny tensors, through the one loop.

None of them needs an `if` in the loop. They stay as long as no shipped recipe proves the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from segue.batch import Batch
from segue.losses.adversarial import adversarial, domain_loss
from segue.losses.cross_entropy import CrossEntropy, cross_entropy
from segue.models.segmenter import Output
from segue.runtime.processes import World
from segue.training.loop import train
from segue.training.networks import Network, Networks
from segue.training.phases import Objective, Phase, Weighted, usual_phases
from segue.training.state import Training
from segue.training.step import Step
from segue.training.tracker import Tracker

CLASSES, SIZE = 5, 16


class TinySegmenter(nn.Module):
    """Two convolutions: an encoder of stride 2, a head, and a head on the same features."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.main = nn.Conv2d(8, CLASSES, 1)
        self.layer3 = nn.Conv2d(8, CLASSES, 1)

    def forward(self, image: Tensor) -> Output:
        feature = self.encoder(image).relu()
        logits = {"main": self.main(feature), "layer3": self.layer3(feature)}
        return Output(logits, {"layer1": feature, "penultimate": feature})

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return functional.interpolate(logits, size, mode="bilinear")


@dataclass(frozen=True)
class Custom:
    """A term from a function."""

    function: Callable[[Step], Tensor]
    views: tuple[str, ...] = ("target",)
    trains: tuple[str, ...] = ("segmenter",)

    def __call__(self, step: Step) -> Tensor:
        return self.function(step)


@dataclass(frozen=True)
class View:
    function: Callable[[Step], Batch]
    parents: tuple[str, ...] = ()

    def __call__(self, step: Step) -> Batch:
        return self.function(step)


def draw(start: int, stop: int) -> Iterator[list[dict[str, Batch]]]:
    for iteration in range(start, stop):
        generator = torch.Generator().manual_seed(iteration)
        image = torch.rand(2, 2, 3, SIZE, SIZE, generator=generator)
        label = torch.randint(CLASSES, (2, SIZE, SIZE), generator=generator)
        yield [{"source": Batch(image[0], label), "target": Batch(image[1])}]


def network(module: nn.Module, lr: float = 0.1) -> Network:
    parameters = list(module.parameters())
    groups = [{"params": parameters, "lr": lr, "base_lr": lr}]
    return Network(module, torch.optim.SGD(groups, lr=lr))


def run(tmp_path: Any, table: dict[str, Network], phases: Sequence[Phase], **more: Any) -> set[str]:
    """Trains for two iterations and returns the names of the networks that changed."""
    torch.manual_seed(0)
    before = {name: copy.deepcopy(one.module.state_dict()) for name, one in table.items()}
    training = Training(Networks(table), phases, iterations=2, draw=draw, **more)
    tracker = Tracker(tmp_path, iterations=2, every=1, world=World())
    train(training, tracker, tmp_path, checkpoint_every=2)
    return {
        name
        for name, one in table.items()
        if any(not torch.equal(v, before[name][k]) for k, v in one.module.state_dict().items())
    }


def discriminator(channels: int = CLASSES) -> nn.Module:
    return nn.Conv2d(channels, 1, 4, stride=2)


def weighted(**terms: Any) -> list[Weighted]:
    found = []
    for name, term in terms.items():
        parts = term.items() if isinstance(term, dict) else [("", term)]
        found += [Weighted(f"{name}/{key}".strip("/"), part) for key, part in parts]
    return found


def test_multi_level_advent(tmp_path: Any) -> None:
    table = {"segmenter": network(TinySegmenter())}
    table |= {name: network(discriminator()) for name in ("discriminator", "discriminator_layer3")}
    terms = weighted(
        segmentation=CrossEntropy(),
        segmentation_layer3=CrossEntropy(head="layer3"),
        alignment=adversarial(),
        alignment_layer3=adversarial(head="layer3", discriminator="discriminator_layer3"),
    )
    phases = usual_phases(terms, {})
    assert [one.trains for one in phases[0].objectives] == [
        ("segmenter",),
        ("discriminator",),
        ("discriminator_layer3",),
    ]
    groups = [[w.name for w in group] for group in phases[0].objectives[0].groups]
    assert groups == [
        ["segmentation", "segmentation_layer3"],
        ["alignment/fool", "alignment_layer3/fool"],
    ]
    assert run(tmp_path, table, phases) == set(table)


def test_grouping_shares_one_forward_and_trains_with_the_segmenter(tmp_path: Any) -> None:
    """Paper 000: a grouping network at its own rate, one discriminator, losses of one forward."""
    forwards = []

    class Grouping(nn.Sequential):
        def forward(self, probabilities: Tensor) -> Tensor:
            forwards.append(probabilities.requires_grad)
            return super().forward(probabilities).softmax(1)

    def groups(step: Step, view: str) -> tuple[Tensor, Tensor]:
        def compute() -> tuple[Tensor, Tensor]:
            p = step.predict(view).probabilities()
            shares = step.network("grouping")(p)
            f = shares[:, :, None] * p[:, None]
            return f, f.flatten(3).mean(3)

        return step.once(("groups", view), compute)

    def consistency(step: Step) -> Tensor:
        (_, q_source), (_, q_target) = groups(step, "source"), groups(step, "target")
        return (q_source - q_target).square().sum((1, 2)).mean()

    def orthogonality(step: Step) -> Tensor:
        q = functional.normalize(groups(step, "target")[1], dim=2)
        return (q @ q.mT).sum((1, 2)).mean()

    def score(step: Step, view: str) -> Tensor:
        f, q = groups(step, view)
        outer = f[:, :, :, None] * q[:, :, None, :, None, None]
        return step.network("discriminator")(outer.flatten(0, 1).flatten(1, 2))

    both, joint = ("source", "target"), ("segmenter", "grouping")
    table = {
        "segmenter": network(TinySegmenter()),
        "grouping": network(Grouping(nn.Conv2d(CLASSES, 3, 1)), lr=0.01),
        "discriminator": network(discriminator(CLASSES * CLASSES)),
    }
    terms = weighted(
        segmentation=CrossEntropy(),
        consistency=Custom(consistency, both, joint),
        orthogonality=Custom(orthogonality, both, joint),
        fool=Custom(lambda step: domain_loss(score(step, "target"), 0.0), both, joint),
        tell_apart=Custom(
            lambda step: (
                domain_loss(score(step, "source"), 0.0) + domain_loss(score(step, "target"), 1.0)
            ),
            both,
            ("discriminator",),
        ),
    )
    phases = usual_phases(terms, {})
    assert [one.trains for one in phases[0].objectives] == [joint, ("discriminator",)]
    assert run(tmp_path, table, phases) == set(table)
    assert forwards == [True] * 4, "one forward per domain and iteration, reused detached"


def test_maximum_classifier_discrepancy_has_three_steps(tmp_path: Any) -> None:
    """MCD: two classifiers on one encoder, the last step repeated."""

    def logits(step: Step, view: str, classifier: str) -> Tensor:
        feature = step.predict(view).feature("layer1")
        return step.network(classifier)(feature)

    def segmentation(step: Step) -> Tensor:
        label = step.source.label
        assert label is not None
        small = label[:, ::2, ::2]
        return sum(
            (cross_entropy(logits(step, "source", c), small) for c in ("first", "second")),
            torch.zeros(()),
        )

    def discrepancy(step: Step) -> Tensor:
        first, second = (logits(step, "target", c).softmax(1) for c in ("first", "second"))
        return (first - second).abs().mean()

    table = {"segmenter": network(TinySegmenter())}
    table |= {name: network(nn.Conv2d(8, CLASSES, 1)) for name in ("first", "second")}
    supervised = Weighted("segmentation", Custom(segmentation, ("source",)))
    apart = Weighted("apart", Custom(discrepancy), -1.0)
    together = Weighted("together", Custom(discrepancy))
    phases = [
        Phase((Objective(("segmenter", "first", "second"), (supervised,), {}),)),
        Phase((Objective(("first", "second"), (supervised, apart), {}),)),
        Phase((Objective(("segmenter",), (together,), {}),), repeat=4),
    ]
    assert run(tmp_path, table, phases) == set(table)


@dataclass
class Teacher:
    """The exponential moving average of the segmenter."""

    teacher: nn.Module
    student: nn.Module
    momentum: float = 0.99

    def after(self, steps: Sequence[Step]) -> None:
        with torch.no_grad():
            for mine, theirs in zip(
                self.teacher.parameters(), self.student.parameters(), strict=True
            ):
                mine.lerp_(theirs, 1 - self.momentum)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


def with_teacher() -> tuple[dict[str, Network], dict[str, Teacher]]:
    student = TinySegmenter()
    teacher = copy.deepcopy(student).requires_grad_(False)
    table = {"segmenter": network(student), "teacher": Network(teacher)}
    return table, {"teacher": Teacher(teacher, student)}


def pseudo(step: Step) -> tuple[Tensor, Tensor]:
    confidence, label = step.predict("target", "teacher").probabilities().max(1)
    return label, (confidence > 0.2).float()


def test_dacs_mixes_both_domains_by_class(tmp_path: Any) -> None:
    def mix(step: Step) -> Batch:
        source, target = step.source, step.target
        label, weight = pseudo(step)
        assert source.label is not None
        classes = torch.randperm(CLASSES, generator=step.random("mix"))[: CLASSES // 2]
        paste = torch.isin(source.label, classes)
        return Batch(
            torch.where(paste[:, None], source.image, target.image),
            torch.where(paste, source.label, label),
            torch.where(paste, torch.ones_like(weight), weight),
        )

    table, followers = with_teacher()
    views = {"mixed": View(mix)}
    terms = weighted(segmentation=CrossEntropy(), mixed=CrossEntropy(view="mixed"))
    phases = usual_phases(terms, views)
    assert len(phases[0].objectives[0].groups) == 2, "the source is freed before the mix is run"
    assert run(tmp_path, table, phases, views=views, followers=followers) == set(table)


def test_mic_masks_the_target(tmp_path: Any) -> None:
    def mask(step: Step) -> Batch:
        keep = torch.rand(2, 1, 4, 4, generator=step.random("mask")) > 0.7
        label, weight = pseudo(step)
        keep = functional.interpolate(keep.float(), SIZE)
        return Batch(step.target.image * keep, label, weight)

    table, followers = with_teacher()
    views = {"masked": View(mask)}
    terms = weighted(segmentation=CrossEntropy(), masked=CrossEntropy(view="masked"))
    assert run(tmp_path, table, usual_phases(terms, views), views=views, followers=followers)


def test_hrda_fuses_two_crops_of_different_extent(tmp_path: Any) -> None:
    """A context crop at half the resolution, a detail crop inside it, fused by attention."""

    def context(step: Step) -> Batch:
        image = functional.interpolate(step.source.image, scale_factor=0.5, mode="bilinear")
        return Batch(image, step.source.label)

    def detail(step: Step) -> Batch:
        top, left = torch.randint(2, (2,), generator=step.random("detail")).tolist()
        box = torch.tensor([[top / 2, left / 2, 0.5, 0.5]] * 2)
        half = SIZE // 2
        rows, columns = slice(top * half, (top + 1) * half), slice(left * half, (left + 1) * half)
        return Batch(step.source.image[:, :, rows, columns], box=box)

    def fused(step: Step) -> Tensor:
        wide = functional.interpolate(step.predict("context").logits(), SIZE, mode="bilinear")
        attention = step.network("attention")(wide).sigmoid()
        close, box = step.predict("detail").upsampled(), step.view("detail").box
        assert box is not None
        top, left = (int(x * SIZE) for x in box[0, :2])
        inside = functional.pad(close, (left, SIZE // 2 - left, top, SIZE // 2 - top))
        label = step.source.label
        assert label is not None
        return cross_entropy((1 - attention) * wide + attention * inside, label)

    table = {
        "segmenter": network(TinySegmenter()),
        "attention": network(nn.Conv2d(CLASSES, 1, 1)),
    }
    views = {"context": View(context), "detail": View(detail)}
    terms = weighted(fused=Custom(fused, ("context", "detail"), ("segmenter", "attention")))
    assert run(tmp_path, table, usual_phases(terms, views), views=views) == set(table)


@dataclass
class Pool:
    """CycleGAN's pool of earlier fakes: half the time the discriminator sees an old one."""

    images: list[Tensor] = field(default_factory=list)

    def exchange(self, step: Step, fake: Tensor) -> Tensor:
        self.images.append(fake.detach()[:1])
        index = int(torch.randint(len(self.images), (), generator=step.random("pool")))
        return self.images[index]

    def after(self, steps: Sequence[Step]) -> None:
        del self.images[:-50]

    def state_dict(self) -> dict[str, Any]:
        return {"images": list(self.images)}

    def load_state_dict(self, state: Any) -> None:
        self.images = list(state["images"])


def test_cyclegan_with_its_image_pool_and_bdls_semantic_term(tmp_path: Any) -> None:
    pool = Pool()

    def translated(view: str, generator: str) -> View:
        def make(step: Step) -> Batch:
            batch = step.view(view)
            return replace(batch, image=step.network(generator)(batch.image).sigmoid())

        return View(make, parents=(view,))

    views = {
        "as_target": translated("source", "forth"),
        "back": translated("as_target", "back"),
    }

    def cycle(step: Step) -> Tensor:
        return (step.view("back").image - step.source.image).abs().mean()

    def semantic(step: Step) -> Tensor:
        before = step.predict("source").log_probabilities().detach()
        after = step.predict("as_target").log_probabilities()
        return functional.kl_div(after, before, reduction="batchmean", log_target=True)

    def score(step: Step, image: Tensor) -> Tensor:
        return step.network("judge")(image)

    def judge(step: Step) -> Tensor:
        fake = pool.exchange(step, step.view("as_target").image)
        real, false = score(step, step.target.image), score(step, fake)
        return (real - 1).square().mean() + false.square().mean()

    generators = ("forth", "back")
    table = {name: network(nn.Conv2d(3, 3, 3, padding=1)) for name in generators}
    table |= {"judge": network(discriminator(3)), "segmenter": network(TinySegmenter())}
    terms = weighted(
        cycle=Custom(cycle, ("back",), generators),
        semantic=Custom(semantic, ("as_target",), ("forth",)),
        fool=Custom(
            lambda step: (score(step, step.view("as_target").image) - 1).square().mean(),
            ("as_target",),
            ("forth",),
        ),
        judge=Custom(judge, ("target",), ("judge",)),
    )
    phases = usual_phases(terms, views)
    assert len(phases[0].objectives[0].groups) == 1, "all terms share the generator's graph"
    changed = run(tmp_path, table, phases, views=views, followers={"pool": pool})
    assert changed == {"forth", "back", "judge"}, "the segmenter only judges meaning"
    assert len(pool.images) == 2


def test_category_centres_come_from_an_earlier_stage(tmp_path: Any) -> None:
    """Paper 002: centres are a tensor that a stage has written; the triplet reads it."""
    torch.save(functional.normalize(torch.randn(CLASSES, 8), dim=1), tmp_path / "centres.pt")
    centres = torch.load(tmp_path / "centres.pt", weights_only=True)

    def triplet(step: Step) -> Tensor:
        feature = functional.normalize(step.predict("source").feature("penultimate"), dim=1)
        label = step.source.label
        assert label is not None
        distance = 1 + 1 - 2 * torch.einsum("bdhw,cd->bchw", feature, centres)
        small = label[:, None, ::2, ::2]
        own = distance.gather(1, small)
        hinge = (own - distance + 0.2).clamp(min=0).scatter(1, small, 0.0)
        return hinge.sum(1).div(CLASSES - 1).mean()

    table = {"segmenter": network(TinySegmenter())}
    terms = weighted(segmentation=CrossEntropy(), triplet=Custom(triplet, ("source",)))
    assert run(tmp_path, table, usual_phases(terms, {})) == {"segmenter"}


def test_a_term_that_hides_a_view_is_told_so(tmp_path: Any) -> None:
    hides = Custom(lambda step: step.predict("source").upsampled().mean(), ("target",))
    table = {"segmenter": network(TinySegmenter())}
    terms = weighted(segmentation=CrossEntropy(), hides=hides)
    with pytest.raises(RuntimeError, match="list the view"):
        run(tmp_path, table, usual_phases(terms, {}))
