"""Rows of the topic step: a whole iteration of training beside ADVENT's loop."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import timm
import torch
from plain_steps import as_torch_has_it
from row import Row, Sides
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional

from rows.pseudo_labels import no_bfloat16
from segue import recipe
from segue.batch import Batch
from segue.models import Segmenter
from segue.recipe import build as assembly
from segue.recipe.recipe import TrainStage
from segue.runtime.processes import World
from segue.stages import train
from segue.training.loop import iterate
from segue.training.networks import Networks
from segue.training.state import Training

SOURCE, TARGET = (360, 640), (256, 512)  # height and width
CLASSES = 19


def training_of(precision: str) -> Training:
    """AdvEnt on two levels, as ADVENT's code has it by default, from random weights."""
    with tempfile.TemporaryDirectory() as folder:
        # From a file, for scales and shifts are frozen where weights are given.
        file = Path(folder) / "random.safetensors"
        save_model(timm.create_model("resnet101"), str(file))
        overrides = [f"stages.train.networks.segmenter.weights={file}", f"precision={precision}"]
        chosen = recipe.load("advent-gta5", overrides)
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


def logits_of(segmenter: Segmenter, image: Tensor) -> dict[str, Tensor]:
    """The network as it is usually written: in each head four dilated convolutions, summed."""
    *_, layer3, layer4 = segmenter.encoder(segmenter.normalisation(image))
    logits: dict[str, Tensor] = {}
    for name, feature in {"main": layer4, "layer3": layer3}.items():
        first, *others = cast(nn.ModuleList, segmenter.heads[name].branches)
        logits[name] = first(feature)
        for branch in others:
            logits[name] = logits[name] + branch(feature)
    return logits


def entropy_map(prediction: Tensor) -> Tensor:
    """Weighted self-information."""
    p = functional.softmax(prediction, 1)
    return -p * torch.log2(p + 1e-30) / torch.log2(torch.tensor(float(p.shape[1])))


def advent(networks: Networks, drawn: dict[str, Batch], weight_of: dict[str, float]) -> None:
    """One iteration of ADVENT's loop: source, target, discriminators; then all updates."""
    segmenter = cast(Segmenter, networks["segmenter"])
    judges = {"main": networks["discriminator"], "layer3": networks["discriminator_layer3"]}
    optimisers = [networks.table[name].optimiser for name in networks]
    source, target = drawn["source"], drawn["target"]

    def resized(logits: Tensor, batch: Batch) -> Tensor:
        return functional.interpolate(logits, batch.size, mode="bilinear", align_corners=True)

    def judged(level: str, shown: Tensor, label: float) -> Tensor:
        scores = judges[level](shown)
        wanted = torch.full_like(scores, label)
        return functional.binary_cross_entropy_with_logits(scores, wanted)

    def summed(losses: dict[str, Tensor]) -> Tensor:
        return sum((weight_of[name] * loss for name, loss in losses.items()), torch.zeros(()))

    for optimiser in optimisers:
        assert optimiser is not None
        optimiser.zero_grad()
    for judge in judges.values():
        judge.requires_grad_(False)
    logits = logits_of(segmenter, source.image)
    of_source = {level: resized(x, source) for level, x in logits.items()}
    label = cast(Tensor, source.label)
    segmentation = {
        named("segmentation", level): functional.cross_entropy(x, label, ignore_index=255)
        for level, x in of_source.items()
    }
    summed(segmentation).backward()
    logits = logits_of(segmenter, target.image)
    of_target = {level: resized(x, target) for level, x in logits.items()}
    alignment = {
        named("alignment", level): judged(level, entropy_map(x), 0.0)
        for level, x in of_target.items()
    }
    summed(alignment).backward()
    for level, judge in judges.items():
        judge.requires_grad_(True)
        (judged(level, entropy_map(of_source[level].detach()), 0.0) / 2).backward()
        (judged(level, entropy_map(of_target[level].detach()), 1.0) / 2).backward()
    for optimiser in optimisers:
        assert optimiser is not None
        optimiser.step()


def named(term: str, level: str) -> str:
    """What the recipe calls a term of a level."""
    return term if level == "main" else f"{term}_{level}"


def weights(networks: Networks) -> list[Tensor]:
    """What was trained of the segmenter, and what followed."""
    return list(networks["segmenter"].state_dict().values())


def apart(ours: list[Tensor], plain: list[Tensor]) -> float:
    """How far a weight or statistic is from the other side's at most, as a share of its norm."""
    pairs = ((one.double(), other.double()) for one, other in zip(ours, plain, strict=True))
    return max(float((one - other).norm() / other.norm().clamp_min(1e-30)) for one, other in pairs)


def step(precision: str) -> Callable[[], Sides]:
    """Both loops, from the same weights."""

    def make() -> Sides:
        training = training_of(precision)
        plain, drawn = copy.deepcopy(training.networks), batches()
        as_torch_has_it(plain["segmenter"])
        weight_of = {
            one.name: one.weight
            for phase in training.phases
            for objective in phase.objectives
            if "segmenter" in objective.trains
            for one in objective.terms
        }

        def ours() -> list[Tensor]:
            iterate(training, 0, [drawn])
            return weights(training.networks)

        def theirs() -> list[Tensor]:
            advent(plain, drawn, weight_of)
            return weights(plain)

        return Sides(ours, theirs, apart)

    return make


AGAINST = "ADVENT's loop, the same layers as torch has them"
ROWS: tuple[Row, ...] = (
    Row(
        "adversarial step, DeepLab-v2 R-101, 640x360 + 512x256",
        AGAINST,
        step("float32"),
        faster=1.18,
        memory=0.68,
        within=1e-4,
        repeats=3,
        note="ADVENT's default, two levels. The difference is that of any weight or running "
        "statistic of the segmenter after two steps, as a share of its norm; in the discriminators "
        "Adam takes a whole step where a gradient is nothing but rounding. Batch norms have frozen "
        "scales and shifts on both sides, as the recipe and ADVENT's code have them. By a profile "
        "on a Xeon with AVX-512, 84 % of the plain side's time are convolutions at 120 to 190 "
        "GFLOP/s, alike on both sides but for the heads'. The last to gain is the backward pass of "
        "1x1 convolutions, by plain products a quarter faster there, 8 % of a step: ResNets on a "
        "CPU alone would gain, and it was left to torch.",
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
