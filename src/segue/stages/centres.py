"""The stage that finds the centre of each class among a model's features of the source."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from segue.datasets.loading import Role, batches
from segue.datasets.sampling import drawn_of
from segue.errors import SegueError
from segue.inference import model
from segue.label_space import IGNORE
from segue.models import Segmenter
from segue.models.centres import Centres, on_grid
from segue.models.weights import save_weights
from segue.recipe import build as assembly
from segue.recipe.recipe import Recipe
from segue.recipe.schema import CentresStage
from segue.runtime import processes as distributed
from segue.runtime.processes import World
from segue.runtime.progress import Meter
from segue.stages.train import NETWORKS
from segue.storage.whole import write_whole
from segue.training.step import Step, View

FILE = "centres.json"


def run(
    recipe: Recipe,
    name: str,
    stage: CentresStage,
    work_dir: Path,
    *,
    world: World,
    console: Console | None,
) -> None:
    """Writes the centres of all classes as a network that losses read, and tells of them in JSON.

    Coarse-to-fine (CVPR 2021), equation 3. Features are those of the model in use: running
    statistics, full precision.

    Raises:
        SegueError: the model or the images are not as they should be.
    """
    segmenter = model.read(work_dir / stage.model / model.FILE, world.device).segmenter
    steps = epoch(
        assembly.readings(recipe, stage, work_dir),
        assembly.views(stage.views, where=f"stages.{name}.views"),
        segmenter,
        seed=assembly.seed_of(recipe, name),
        workers=recipe.workers,
        world=world,
        console=console,
        title=name,
    )
    with closing(steps):
        mine = sum_features(steps, stage.view, stage.feature, where=f"stages.{name}.view")
    every = [sums for sums in distributed.gather(mine, world) if sums is not None]
    sums, counts = (torch.stack(parts).sum(0) for parts in zip(*every, strict=True))
    centres = centres_of(sums, counts)
    if not world.leads:
        return
    classes = recipe.classes().classes
    save_weights(centres, work_dir / name / NETWORKS / "centres.safetensors")
    write_whole(work_dir / name / FILE, lambda file: file.write(summary(centres, classes).encode()))
    if console is not None:
        console.print(told(name, centres, classes), highlight=False)


def epoch(
    roles: Mapping[str, Role],
    views: Mapping[str, View],
    segmenter: Segmenter,
    *,
    seed: int,
    workers: int | None,
    world: World,
    console: Console | None,
    title: str,
) -> Generator[Step, None, None]:
    """A step for each source image that this process takes; all processes take each image once.

    What is drawn for an image, such as the target image that it is aligned with, follows from the
    seed and its place in the epoch, whichever process takes it.
    """
    source = roles["source"]
    images = drawn_of(len(source.dataset), source.share)
    draws = batches(
        roles,
        batch_size=1,
        seed=seed,
        start=0,
        stop=-(-images // world.size),
        rank=world.rank,
        world=world.size,
        workers=workers,
    )
    meter = Meter(console if world.leads else None, title, images, "img")
    meter.start()
    with closing(draws):
        for iteration, (drawn,) in enumerate(draws):
            place = iteration * world.size + world.rank
            if place < images:  # what lies beyond belongs to the next epoch
                moved = {role: batch.to(world.device) for role, batch in drawn.items()}
                networks = {"segmenter": segmenter}
                yield Step(moved, networks, iteration=place, views=views, seed=seed)
            meter.advance(min((iteration + 1) * world.size, images))
    meter.stop()


def sum_features(
    steps: Iterable[Step], view: str, feature: str, *, where: str
) -> tuple[Tensor, Tensor] | None:
    """What `by_class` gives, summed over steps in order; None where there is no step.

    Raises:
        SegueError: the view has no labels.
    """
    total = None
    for step in steps:
        label = step.view(view).label
        if label is None:
            fix = "name the source, or a view that is made from it"
            raise SegueError(f"view {view!r} has no labels", where=where, fix=fix)
        classes = cast(Segmenter, step.network("segmenter")).num_classes
        with torch.no_grad():
            sums, counts = by_class(step.predict(view).feature(feature), label, classes)
        total = (sums, counts) if total is None else (total[0] + sums, total[1] + counts)
    return total


def by_class(feature: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sums of features by the class of their pixel, and how many pixels there are.

    Args:
        feature: [B, D, h, w].
        label: [B, H, W] int64, 255 is ignored; taken to the feature's grid, nearest.
        num_classes: C.

    Returns:
        [C, D] float64 and [C] int64, on the CPU.

    Example:
        >>> sums, counts = by_class(torch.ones(1, 2, 1, 3), torch.tensor([[[0, 0, 255]]]), 2)
        >>> sums.tolist(), counts.tolist()
        ([[2.0, 2.0], [0.0, 0.0]], [2, 0])
    """
    label = on_grid(label, (int(feature.shape[-2]), int(feature.shape[-1]))).flatten()
    values = feature.transpose(0, 1).flatten(1)[:, label != IGNORE].double()
    member = functional.one_hot(label[label != IGNORE], num_classes)
    return (values @ member.double()).T.cpu(), member.sum(0).cpu()


def centres_of(sums: Tensor, counts: Tensor) -> Centres:
    """Means scaled to length 1, as the network that holds them; 0 for a class without a pixel.

    Example:
        >>> centres_of(torch.tensor([[0.0, 8.0], [0.0, 0.0]]), torch.tensor([4, 0])).value.tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    centres = Centres(*sums.shape)
    # The number of pixels drops out: a mean and a sum have one direction.
    centres.value.copy_(functional.normalize(sums.double(), dim=1))
    centres.count.copy_(counts)
    return centres


def summary(centres: Centres, classes: tuple[str, ...]) -> str:
    """Pixels of each class and distances between centres, as JSON."""
    told = {
        "format": 1,
        "classes": classes,
        "pixels": centres.count.tolist(),
        "distances": between(centres),
    }
    return json.dumps(told, indent=1)


def between(centres: Centres) -> list[list[float | None]]:
    """Distances between centres, [C][C]; None where a class has none.

    Example:
        >>> between(centres_of(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([1, 1])))
        [[0.0, 1.414214], [1.414214, 0.0]]
    """
    value = centres.value.double()
    absent = (value == 0).all(1).tolist()
    distance = torch.linalg.vector_norm(value[:, None] - value, dim=2).tolist()
    return [
        [None if absent[a] or absent[b] else round(one, 6) for b, one in enumerate(row)]
        for a, row in enumerate(distance)
    ]


def told(name: str, centres: Centres, classes: tuple[str, ...]) -> str:
    """One line: how many classes have a centre, which two are nearest, which have none."""
    pairs = [
        (distance, classes[a], classes[b])
        for a, row in enumerate(between(centres))
        for b, distance in enumerate(row)
        if distance is not None and a < b
    ]
    absent = [one for one, count in zip(classes, centres.count.tolist(), strict=True) if not count]
    text = f"{name}: centres of {len(classes) - len(absent)} classes"
    if pairs:
        distance, one, other = min(pairs)
        text += f", nearest {one} and {other} ({distance:.3f})"
    return text + (f"; none of {', '.join(absent)}" if absent else "")
