"""The stage that fits a fixed grouping to what a model says of pixels of both domains."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from segue.datasets.loading import Role, batches
from segue.inference import model
from segue.models import Segmenter
from segue.models.grouping_fit import GROUPINGS
from segue.models.weights import save_weights
from segue.parts import build
from segue.recipe import build as assembly
from segue.recipe.recipe import Recipe
from segue.recipe.schema import GroupsStage
from segue.runtime.processes import World
from segue.runtime.progress import Meter
from segue.stages.train import NETWORKS
from segue.storage.whole import write_whole
from segue.training.step import Step

FILE = "groups.json"
IMAGES = 100  # of each domain, at most
PIXELS = 100  # of each image


def run(
    recipe: Recipe,
    name: str,
    stage: GroupsStage,
    work_dir: Path,
    *,
    world: World,
    console: Console | None,
) -> None:
    """Writes a fixed grouping as a network that losses read, and tells of its groups in JSON.

    Cross-domain grouping (AAAI 2021), figure 4. At most 10,000 pixels of each domain are looked
    at, those of 100 images, drawn by the seed; no label is opened.

    Differs: the paper compares such groupings in pictures; training with them is our extension.

    Raises:
        SegueError: the model or the images are not as they should be, or pixels differ too little.
    """
    if not world.leads:
        return
    segmenter = model.read(work_dir / stage.model / model.FILE, world.device).segmenter
    seed = assembly.seed_of(recipe, name)
    fit = build(
        GROUPINGS, stage.by, where=f"stages.{name}.by", what="grouping", groups=stage.groups
    )
    roles = {
        "source": assembly.reading(recipe, stage.source, labels=False, work_dir=work_dir),
        "target": assembly.reading(recipe, stage.target, labels=False, work_dir=work_dir),
    }
    steps = drawn(
        roles,
        segmenter,
        seed=seed,
        workers=recipe.workers,
        world=world,
        console=console,
        title=name,
    )
    with closing(steps):
        samples = sample(steps)
    network = fit(np.concatenate(list(samples.values())), seed)
    found = summarise(network, samples, recipe.classes().classes)
    write_whole(work_dir / name / FILE, lambda file: file.write(found.as_json().encode()))
    save_weights(network, work_dir / name / NETWORKS / "grouping.safetensors")
    if console is not None:
        console.print(found.line(name), highlight=False)


def drawn(
    roles: Mapping[str, Role],
    segmenter: Segmenter,
    *,
    seed: int,
    workers: int | None,
    world: World,
    console: Console | None,
    title: str,
) -> Generator[Step, None, None]:
    """A step for each pair of images that is looked at, a source and a target image in each."""
    pairs = min(IMAGES, max(len(role.dataset) for role in roles.values()))
    draws = batches(roles, batch_size=1, seed=seed, start=0, stop=pairs, workers=workers)
    meter = Meter(console, title, pairs, "pairs")
    meter.start()
    with closing(draws):
        for iteration, (pair,) in enumerate(draws):
            moved = {role: batch.to(world.device) for role, batch in pair.items()}
            networks = {"segmenter": segmenter}
            yield Step(moved, networks, iteration=iteration, seed=seed)
            meter.advance(iteration + 1)
    meter.stop()


def sample(steps: Iterable[Step]) -> dict[str, NDArray[np.float32]]:
    """Probability vectors [N, C] of random pixels by domain, as many of every image.

    Only the vectors of those pixels are kept, so that memory does not grow with the images' size.
    """
    found: dict[str, list[Tensor]] = {"source": [], "target": []}
    for step in steps:
        for domain, parts in found.items():
            with torch.no_grad():
                flat = step.predict(domain).probabilities()[0].flatten(1)
            order = torch.randperm(flat.shape[1], generator=step.random(f"pixels {domain}"))
            parts.append(flat[:, order[:PIXELS].to(flat.device)].T.cpu())
    return {domain: torch.cat(parts).numpy() for domain, parts in found.items()}


@dataclass(frozen=True)
class Summary:
    """What a grouping makes of the sampled pixels; each counts for the group it is most in.

    Args:
        classes: their names.
        pixels: how many were sampled of each domain.
        share: of each domain's pixels, by group.
        mix: mean probability of each class over a group's pixels; None for a group without any.
    """

    classes: tuple[str, ...]
    pixels: dict[str, int]
    share: dict[str, list[float]]
    mix: list[list[float] | None]

    def as_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": 1, **asdict(self)}, indent=1)

    def line(self, name: str) -> str:
        """How much of each domain the groups hold, each told by its strongest class."""
        told = []
        for group, mix in enumerate(self.mix):
            strongest = self.classes[int(np.argmax(mix))] if mix else "empty"
            percent = "/".join(f"{100 * share[group]:.0f}" for share in self.share.values())
            told.append(f"{strongest} {percent} %")
        return f"{name}: {' and '.join(self.share)} by group: {', '.join(told)}"


def summarise(
    network: nn.Module, samples: Mapping[str, NDArray[np.float32]], classes: tuple[str, ...]
) -> Summary:
    """Looks at samples of each domain, [N, C], through a grouping network."""
    of_domain: dict[str, NDArray[np.int64]] = {}
    groups = 0
    for domain, vectors in samples.items():
        with torch.no_grad():
            membership = network(torch.from_numpy(vectors).T[None, :, None])
        groups, of_domain[domain] = membership.shape[1], membership[0, :, 0].argmax(0).numpy()
    every, group = (np.concatenate(list(one.values())) for one in (samples, of_domain))
    members = [every[group == k] for k in range(groups)]
    return Summary(
        classes,
        {domain: len(vectors) for domain, vectors in samples.items()},
        {
            domain: (np.bincount(of, minlength=groups) / len(of)).round(6).tolist()
            for domain, of in of_domain.items()
        },
        [one.mean(0).round(6).tolist() if len(one) else None for one in members],
    )
