"""Steps of the four systems as they are commonly written: the other side of benchmarks/gpu.py.

Float32, channels first, torch's own way of updating; every prediction upsampled to the size of its
image, source and target in one graph, one backward pass for the segmenter and one for the
discriminators. Images come aligned: translation has rows of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from segue.batch import Batch
from segue.models.batch_norm import BatchNorm2d
from segue.models.discriminator import discriminator
from segue.training.networks import Networks

Drawn = list[dict[str, Batch]]
PlainStep = Callable[[Drawn], None]
PATCH, TAU, MARGIN = 256, 0.05, 0.2
ADVERSARY, SMALL = 1e-3, 1e-4
JITTERED = {
    "source_seen": {"kind": "jittered", "of": "source"},
    "target_seen": {"kind": "jittered", "of": "target"},
}
# What is changed of the recipes for both sides.
SETTINGS: dict[str, dict[str, Any]] = {
    "local-alignment": {},
    "grouping": {},
    "coarse-to-fine": {"stages.fine_1.views": JITTERED},
    "category-adaptive": {},
}


def as_torch_has_it(network: nn.Module) -> None:
    """Makes of batch norms that keep nothing those that do."""
    for part in network.modules():
        if type(part) is BatchNorm2d:
            part.__class__ = nn.BatchNorm2d


def predicted(networks: Networks, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits at the size of the image, and features."""
    segmenter: Any = networks["segmenter"]
    output = segmenter(image)
    size = (image.shape[2], image.shape[3])
    return segmenter.upsample(output.logits["main"], size), output.features


def cross_entropy(logits: Tensor, label: Tensor | None) -> Tensor:
    """Mean over labelled pixels."""
    assert label is not None
    return F.cross_entropy(logits, label, ignore_index=255)


def domain(scores: Tensor, label: float) -> Tensor:
    """Binary cross-entropy against one label everywhere."""
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, label))


def information(logits: Tensor) -> Tensor:
    """Weighted self-information, per class, divided by log C."""
    probabilities = logits.softmax(1)
    return (
        -probabilities
        * torch.log2(probabilities + 1e-30)
        / torch.log2(torch.tensor(float(logits.shape[1])))
    )


def cropped(maps: Tensor) -> Tensor:
    """A random patch."""
    top, left = (int(torch.randint(side - PATCH + 1, ())) for side in maps.shape[2:])
    return maps[:, :, top : top + PATCH, left : left + PATCH]


def learning(modules: Iterable[nn.Module], on: bool) -> None:
    """Whether gradients reach these networks."""
    for module in modules:
        module.requires_grad_(on)


def adversarial(
    networks: Networks,
    judges: list[str],
    losses: Callable[..., tuple[Tensor, Callable[[], Tensor]]],
) -> PlainStep:
    """Segmenter and discriminators in turn; `losses` gives the one, and what gives the other."""

    def step(drawn: Drawn) -> None:
        optimisers = [one.optimiser for one in networks.table.values() if one.optimiser is not None]
        for optimiser in optimisers:
            optimiser.zero_grad()
        for batches in drawn:
            learning((networks[name] for name in judges), on=False)
            loss, told_apart = losses(batches["source"], batches["target"])
            (loss / len(drawn)).backward()
            if judges:
                learning((networks[name] for name in judges), on=True)
                (told_apart() / len(drawn)).backward()
        for optimiser in optimisers:
            optimiser.step()

    return step


def local_alignment(networks: Networks) -> PlainStep:
    """AdvEnt on patches of the prediction."""
    judge = networks["discriminator"]

    def losses(source: Batch, target: Batch) -> tuple[Tensor, Callable[[], Tensor]]:
        of_source, _ = predicted(networks, source.image)
        of_target, _ = predicted(networks, target.image)
        shown = [cropped(information(one)) for one in (of_source, of_target)]
        loss = cross_entropy(of_source, source.label) + ADVERSARY * domain(judge(shown[1]), 0.0)
        seen = [one.detach() for one in shown]
        return loss, lambda: (domain(judge(seen[0]), 0.0) + domain(judge(seen[1]), 1.0)) / 2

    return adversarial(networks, ["discriminator"], losses)


def grouping(networks: Networks) -> PlainStep:
    """Groups of a prediction, their outer products with the condition built whole."""
    judge = discriminator(19**2).to(next(networks["segmenter"].parameters()).device)
    one = networks.table["discriminator"]
    one.module, one.optimiser = judge, torch.optim.Adam(judge.parameters(), 1e-4, (0.9, 0.99))

    def grouped(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probabilities = logits.softmax(1)
        membership = networks["grouping"](probabilities)
        maps = membership[:, :, None] * probabilities[:, None]  # [B, K, C, H, W]
        return maps, maps.mean((3, 4)), maps.amax((3, 4))

    def judged(maps: Tensor, means: Tensor, label: float) -> Tensor:
        loss = maps.new_zeros(())
        for group in range(maps.shape[1]):
            product = maps[:, group, :, None] * means[:, group, None, :, None, None]
            loss = loss + domain(judge(product.flatten(1, 2)), label)
        return loss

    def losses(source: Batch, target: Batch) -> tuple[Tensor, Callable[[], Tensor]]:
        of_source, _ = predicted(networks, source.image)
        of_target, _ = predicted(networks, target.image)
        (maps, means, most), (maps_t, means_t, most_t) = grouped(of_source), grouped(of_target)
        consistency = (means - means_t).square().sum((1, 2)).mean()
        away = 1 - torch.eye(means.shape[1], device=means.device)
        orthogonality = sum(
            (F.cosine_similarity(q[:, :, None], q[:, None], dim=3) * away).sum((1, 2)).mean()
            for q in (means, means_t)
        )
        equivalence = -((most.detach() >= TAU) * most_t.clamp_min(1e-7).log()).sum((1, 2)).mean()
        loss = cross_entropy(of_source, source.label) + ADVERSARY * judged(maps_t, means_t, 0.0)
        loss = loss + ADVERSARY * (consistency + orthogonality) + SMALL * equivalence
        kept = [one.detach() for one in (maps, means, maps_t, means_t)]
        return loss, lambda: (judged(*kept[:2], 0.0) + judged(*kept[2:], 1.0)) / 2

    return adversarial(networks, ["discriminator"], losses)


def coarse_to_fine(networks: Networks) -> PlainStep:
    """Source, clean target and jittered target, with the triplet of every pixel and class."""
    jitter = v2.ColorJitter(0.5, 0.5, 0.5, 0.2)
    centres: Any = networks["centres"]

    def triplet(feature: Tensor, label: Tensor) -> Tensor:
        feature = F.normalize(feature)
        small = F.interpolate(label[:, None].float(), feature.shape[2:], mode="nearest-exact")
        small = small[:, 0].long()
        labelled = small != 255
        pixels = feature.permute(0, 2, 3, 1)[labelled]  # [N, D]
        own = small[labelled][:, None]
        away = (pixels[:, None] - centres.value[None]).norm(dim=2)  # [N, C]
        gaps = (away.gather(1, own) - away + MARGIN).clamp_min(0)
        others = torch.ones_like(gaps).scatter(1, own, 0.0)
        return (gaps * others).sum(1).mean() / (gaps.shape[1] - 1)

    def losses(source: Batch, target: Batch) -> tuple[Tensor, Callable[[], Tensor]]:
        assert source.label is not None
        of_source, features = predicted(networks, jitter(source.image))
        of_target, _ = predicted(networks, target.image)
        of_jittered, _ = predicted(networks, jitter(target.image))
        loss = cross_entropy(of_source, source.label) + cross_entropy(of_target, target.label)
        loss = loss + cross_entropy(of_jittered, target.label)
        return loss + triplet(features["penultimate"], source.label), lambda: loss

    return adversarial(networks, [], losses)


def category_adaptive(networks: Networks) -> PlainStep:
    """Output alignment, pseudo-labels, and channel means of two stages told apart."""
    judge, styles = networks["discriminator"], ("layer1", "layer2")

    def means(features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name].mean((2, 3)) for name in styles]

    def styled(shown: list[Tensor], label: float) -> Tensor:
        scores = [networks[f"style_{name}"](x) for name, x in zip(styles, shown, strict=True)]
        return torch.stack([domain(one, label) for one in scores]).sum()

    def losses(source: Batch, target: Batch) -> tuple[Tensor, Callable[[], Tensor]]:
        of_source, features = predicted(networks, source.image)
        of_target, features_t = predicted(networks, target.image)
        shown = [of_source.softmax(1), of_target.softmax(1)]
        style, style_t = means(features), means(features_t)
        loss = cross_entropy(of_source, source.label) + cross_entropy(of_target, target.label)
        loss = loss + ADVERSARY * (domain(judge(shown[1]), 0.0) + styled(style_t, 0.0))
        seen = [one.detach() for one in shown]
        kept, kept_t = ([one.detach() for one in several] for several in (style, style_t))
        return loss, lambda: (
            domain(judge(seen[0]), 0.0) + domain(judge(seen[1]), 1.0)
            + styled(kept, 0.0) + styled(kept_t, 1.0)
        ) / 2  # fmt: skip

    return adversarial(networks, ["discriminator", *(f"style_{name}" for name in styles)], losses)


PLAIN: dict[str, Callable[[Networks], PlainStep]] = {
    "local-alignment": local_alignment,
    "grouping": grouping,
    "coarse-to-fine": coarse_to_fine,
    "category-adaptive": category_adaptive,
}
