"""Rows of the topic step: a whole iteration of training beside ADVENT's loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from row import Row, Sides
from torch import Tensor, nn
from torch.nn import functional

from rows.pseudo_labels import no_bfloat16
from segue import assembly, recipe
from segue.batch import Batch
from segue.distributed import World
from segue.models import Segmenter
from segue.networks import Networks
from segue.recipe import TrainStage
from segue.stages import train
from segue.training import Training, iterate

SOURCE, TARGET = (360, 640), (256, 512)  # height and width
CLASSES = 19


def training_of(precision: str) -> Training:
    """AdvEnt on one level, as its recipe has it, from random weights."""
    overrides = ["stages.train.networks.segmenter.weights=null", f"precision={precision}"]
    chosen = recipe.load("advent-single-gta5", overrides)
    stage = cast(TrainStage, chosen.stages["train"])
    networks = assembly.networks(chosen, "train", stage)
    networks.train()
    return train.training_of(
        chosen,
        "train",
        stage,
        networks,
        lambda *_: iter(()),
        world=World(),
        iterations=stage.iterations,
    )


def batches() -> dict[str, Batch]:
    """One image of each domain."""
    torch.manual_seed(0)
    label = torch.randint(CLASSES, (1, SOURCE[0] // 8, SOURCE[1] // 8))
    label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
    source = Batch(torch.rand(1, 3, *SOURCE), label)
    return {"source": source, "target": Batch(torch.rand(1, 3, *TARGET))}


def logits_of(segmenter: Segmenter, image: Tensor) -> Tensor:
    """The network as it is usually written: four dilated convolutions, summed."""
    feature = segmenter.encoder(segmenter.normalisation(image))[-1]
    first, *others = cast(nn.ModuleList, segmenter.heads["main"].branches)
    logits: Tensor = first(feature)
    for branch in others:
        logits = logits + branch(feature)
    return logits


def entropy_map(prediction: Tensor) -> Tensor:
    """Weighted self-information."""
    p = functional.softmax(prediction, 1)
    return -p * torch.log2(p + 1e-30) / torch.log2(torch.tensor(float(p.shape[1])))


def advent(networks: Networks, drawn: dict[str, Batch], weight: float) -> None:
    """One iteration of ADVENT's loop: source, target, discriminator; then both updates."""
    segmenter, judge = cast(Segmenter, networks["segmenter"]), networks["discriminator"]
    optimisers = [networks.table[name].optimiser for name in networks]
    source, target = drawn["source"], drawn["target"]

    def resized(logits: Tensor, batch: Batch) -> Tensor:
        return functional.interpolate(logits, batch.size, mode="bilinear", align_corners=True)

    def judged(shown: Tensor, label: float) -> Tensor:
        scores = judge(shown)
        wanted = torch.full_like(scores, label)
        return functional.binary_cross_entropy_with_logits(scores, wanted)

    for optimiser in optimisers:
        assert optimiser is not None
        optimiser.zero_grad()
    judge.requires_grad_(False)
    of_source = resized(logits_of(segmenter, source.image), source)
    functional.cross_entropy(of_source, cast(Tensor, source.label), ignore_index=255).backward()
    of_target = resized(logits_of(segmenter, target.image), target)
    (weight * judged(entropy_map(of_target), 0.0)).backward()
    judge.requires_grad_(True)
    (judged(entropy_map(of_source.detach()), 0.0) / 2).backward()
    (judged(entropy_map(of_target.detach()), 1.0) / 2).backward()
    for optimiser in optimisers:
        assert optimiser is not None
        optimiser.step()


def weights(networks: Networks) -> list[Tensor]:
    """What was trained, and what followed."""
    return [value for name in networks for value in networks[name].state_dict().values()]


def furthest(ours: list[Tensor], plain: list[Tensor]) -> float:
    """The largest difference of any weight."""
    pairs = zip(ours, plain, strict=True)
    return max(float((one.double() - other.double()).abs().max()) for one, other in pairs)


def step(precision: str) -> Callable[[], Sides]:
    """Both loops, from the same weights."""

    def make() -> Sides:
        training = training_of(precision)
        plain, drawn = copy.deepcopy(training.networks), batches()
        weight = next(
            one.weight
            for phase in training.phases
            for objective in phase.objectives
            for one in objective.terms
            if one.name == "alignment"
        )

        def ours() -> list[Tensor]:
            iterate(training, 0, [drawn])
            return weights(training.networks)

        def theirs() -> list[Tensor]:
            advent(plain, drawn, weight)
            return weights(plain)

        return Sides(ours, theirs, furthest)

    return make


AGAINST = "ADVENT's loop, the same modules"
ROWS: tuple[Row, ...] = (
    Row(
        "adversarial step, DeepLab-v2 R-101, 640x360 + 512x256",
        AGAINST,
        step("float32"),
        faster=1.18,
        memory=0.68,
        within=1e-4,
        repeats=3,
        note="The difference is that of any weight or running statistic after two steps.",
    ),
    Row(
        "adversarial step, DeepLab-v2 R-101, 640x360 + 512x256, bfloat16",
        AGAINST + " in float32",
        step("bfloat16"),
        faster=2.1,
        memory=0.68,
        repeats=3,
        refuses=no_bfloat16,
    ),
)
