"""Images through the network, some at once, while threads write behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from segue.errors import SegueError
from segue.inference.model import Ensemble
from segue.predicting.plan import Job
from segue.predicting.writing import WRITERS, Predicted
from segue.runtime.cores import available_cores
from segue.storage.whole import write_whole

MOST_WRITERS = 4
Key = TypeVar("Key")
Image = NDArray[np.uint8]
Where = Callable[[Key], object]


def predicted(
    models: Ensemble,
    images: Iterable[tuple[Key, Image | SegueError]],
    *,
    where: Where[Key],
    confident: bool = False,
    batch: int = 1,
) -> Iterator[tuple[Key, Predicted | SegueError]]:
    """What the models say of images, in their order; what could not be read is passed on.

    Args:
        models: what `segue.load` gave.
        images: RGB [H, W, 3] of any sizes with what is to tell them apart.
        where: what an error calls the image of a key.
        confident: whether probabilities are wanted too.
        batch: how many images, or windows of one, go through a network together.
    """
    waiting: list[tuple[Key, Image]] = []
    for key, image in images:
        if not isinstance(image, SegueError):
            waiting.append((key, image))
            if len(waiting) < batch:
                continue
        yield from _together(models, waiting, where, confident, batch)
        waiting = []
        if isinstance(image, SegueError):
            yield key, image
    yield from _together(models, waiting, where, confident, batch)


def _together(
    models: Ensemble,
    items: Sequence[tuple[Key, Image]],
    where: Where[Key],
    confident: bool,
    batch: int,
) -> Iterator[tuple[Key, Predicted | SegueError]]:
    if not items:
        return
    try:
        images = [image for _, image in items]
        found = models.predict_all(images, confident=confident, batch=batch)
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch tells a lack of memory by the text alone.
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not full and "allocate memory" not in str(error):
            raise
        found = []
    if found:
        for (key, image), (label, confidence) in zip(items, found, strict=True):
            yield key, Predicted(image, label, confidence, models.label_space)
    elif len(items) > 1 or batch > 1:
        for item in items:
            yield from _together(models, [item], where, confident, 1)
    else:
        ((key, image),) = items
        yield key, _too_large(image, where(key))


def _too_large(image: Image, where: object) -> SegueError:
    height, width = image.shape[:2]
    return SegueError(
        f"{width}x{height} pixels do not fit the memory",
        where=where,
        fix="cut it into smaller images, or use device=cpu",
    )


def write_all(
    models: Ensemble,
    images: Iterable[tuple[Job, Image | SegueError]],
    write: Sequence[str],
    *,
    where: Where[Job],
    batch: int = 1,
    advance: Callable[[Job], None],
) -> dict[Path, SegueError | None]:
    """Predicts images and writes their files.

    Args:
        models: what `segue.load` gave.
        images: with their jobs.
        write: names of the writers that the jobs' outputs are of.
        where: what an error calls the image of a job.
        batch: as for `predicted`.
        advance: told of each job that has left the network.

    Returns:
        By the first file of each job what went wrong, None where nothing did.
    """
    outcome: dict[Path, SegueError | None] = {}
    confident = any(WRITERS[name].confident for name in write)
    threads = min(MOST_WRITERS, available_cores())
    writing: deque[Future[Path]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        found = predicted(models, images, where=where, confident=confident, batch=batch)
        for job, result in found:
            if isinstance(result, SegueError):
                outcome[job.outputs[0]] = result
            else:
                writing.append(pool.submit(_write, job, result, write))
            while len(writing) > 2 * threads:
                outcome[writing.popleft().result()] = None
            advance(job)
        outcome |= {future.result(): None for future in writing}
    return outcome


def _write(job: Job, result: Predicted, write: Sequence[str]) -> Path:
    for path, name in zip(job.outputs, write, strict=True):
        picture = WRITERS[name].picture(result)
        write_whole(path, lambda file, picture=picture: picture.save(file, "PNG"))  # type: ignore[misc]
    return job.outputs[0]
