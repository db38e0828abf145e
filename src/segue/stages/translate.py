"""The stage that translates: every image of a dataset in the style of another, once, to files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from segue.datasets import Dataset
from segue.datasets.derived import image_paths
from segue.datasets.sampling import seed_for
from segue.errors import SegueError
from segue.parts import build
from segue.recipe import build as assembly
from segue.recipe.recipe import Recipe, TranslateStage
from segue.runtime import processes as distributed
from segue.runtime.cores import available_cores
from segue.runtime.prefetch import ahead
from segue.runtime.processes import World
from segue.runtime.progress import Meter
from segue.storage.whole import write_whole
from segue.translation import TRANSLATIONS

AHEAD = 2  # pairs of decoded images that may wait
MOST_WRITERS = 4


@dataclass(frozen=True)
class Job:
    """An image by its index, the index of the one that gives the style, and the file to write."""

    index: int
    reference: int
    path: Path


def run(
    recipe: Recipe,
    name: str,
    stage: TranslateStage,
    work_dir: Path,
    *,
    world: World,
    console: Console | None,
) -> None:
    """Writes a PNG for every image of the stage's dataset below the stage's `images/`.

    Images are spread over the processes. What is there already stays as it is. No label is opened.

    Raises:
        SegueError: a dataset has no images, a file cannot be read, no space is left.
    """
    data = assembly.dataset(recipe, stage.data, labels=False, work_dir=work_dir)
    towards = assembly.dataset(recipe, stage.towards, labels=False, work_dir=work_dir)
    translate = build(
        TRANSLATIONS,
        stage.by,
        where=f"stages.{name}.by",
        what="translation",
        work_dir=work_dir,
    )
    jobs = plan(data, towards, work_dir / name, seed=recipe.seed)[world.rank :: world.size]
    waiting = [job for job in jobs if not job.path.is_file()]
    meter = Meter(console if world.leads else None, name, len(jobs), "img")
    meter.start(len(jobs) - len(waiting))
    threads = min(MOST_WRITERS, available_cores())
    writing: deque[Future[None]] = deque()
    try:
        with ThreadPoolExecutor(threads) as writers:
            pairs = _decoded(waiting, data, towards, stage.size)
            for done, (job, image, reference) in enumerate(pairs, len(jobs) - len(waiting) + 1):
                with torch.no_grad():
                    result = translate(image.to(world.device), reference.to(world.device))
                writing.append(writers.submit(_write, job.path, _bytes(result[0])))
                while len(writing) > 2 * threads:
                    writing.popleft().result()
                meter.advance(done)
            for future in writing:
                future.result()
    finally:
        meter.stop()
    distributed.meet(world)


def plan(data: Dataset, towards: Dataset, folder: Path, *, seed: int) -> list[Job]:
    """What the stage in `folder` makes: each image's reference follows from (seed, name, index).

    Raises:
        SegueError: a dataset has no images.
    """
    for dataset in (data, towards):
        if not len(dataset):
            raise SegueError("no images", where=dataset.name, fix="add some")
    return [
        Job(index, seed_for(seed, folder.name, index) % len(towards), path)
        for index, path in enumerate(image_paths(data, folder))
    ]


def _decoded(
    jobs: Sequence[Job],
    data: Dataset,
    towards: Dataset,
    size: tuple[int, int],
) -> Iterator[tuple[Job, Tensor, Tensor]]:
    """Jobs with both images [1, 3, H, W], 0 to 1, the next ones being read meanwhile."""

    def read(job: Job) -> tuple[Job, Tensor, Tensor]:
        image, reference = data.image(job.index, size), towards.image(job.reference, size)
        return job, _tensor(image), _tensor(reference)

    yield from ahead(read, jobs, most=AHEAD)


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255)


def _bytes(image: Tensor) -> NDArray[np.uint8]:
    """[H, W, 3] of [3, H, W], rounded."""
    rounded = image.mul(255).round_().clamp_(0, 255).byte()
    return np.asarray(rounded.permute(1, 2, 0).cpu().numpy())


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    # OpenCV's own PNG settings: a seventh of the time of PIL's, for files 3 % larger.
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    write_whole(path, lambda file: file.write(encoded.tobytes()))
