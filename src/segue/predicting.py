"""Label and colour PNGs for image files and folders of any size."""

from __future__ import annotations

import os
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from segue.checkpoint import write_whole
from segue.datasets.ahead import ahead
from segue.datasets.workers import available_cores
from segue.distributed import World, gather, meet
from segue.errors import SegueError, printable
from segue.label_space import LabelSpace
from segue.model import Ensemble, as_array
from segue.tracking import Meter

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
AHEAD = 2  # decoded images that may wait for the network
MOST_WRITERS = 4
ALONE = World()


@dataclass(frozen=True)
class Job:
    """An image and the two files that its prediction goes to."""

    image: Path
    label: Path
    colour: Path

    def is_done(self) -> bool:
        """Whether both files are there and no older than the image."""
        made = [path for path in (self.label, self.colour) if path.is_file()]
        since = self.image.stat().st_mtime
        return len(made) == 2 and all(path.stat().st_mtime >= since for path in made)


def predict(
    models: Ensemble,
    paths: Sequence[Path],
    output: Path,
    *,
    resume: bool = False,
    world: World = ALONE,
    console: Console | None = None,
) -> list[Path]:
    """Writes `<name>_label.png` (train ids, 8 bits) and `<name>_colour.png` for every image.

    Each at the image's own size. A file that is no image does not stop the others; where names
    lie below `output` says `plan`. Files are written whole or not at all.

    Args:
        models: what `segue.load` gave.
        paths: image files, and folders that are searched through and through.
        output: the folder to write to, made if need be.
        resume: leave out images whose two files are there and no older than the image. Which model
            wrote them is not known: without it everything is predicted anew.
        world: process r of n takes images r, r + n, r + 2 n, ...; all see the same files, and what
            each file is called does not depend on how many they are.
        console: where to show progress and what failed; None keeps silent.

    Returns:
        The label files that were written, by any process, in the order of the images.

    Raises:
        SegueError: a path is missing, a folder holds no image, a prediction would land on an
            input or outside `output`, no space is left; or, when all else is done, some images
            could not be predicted: its notes hold one line for each.
    """
    jobs = plan(paths, output)
    if resume:
        jobs = [job for job in jobs if not job.is_done()]
    # Whoever writes before all have looked changes what the others find to be left.
    meet(world)
    mine = jobs[world.rank :: world.size]
    meter = Meter(console if world.leads else None, "predict", len(jobs), "img")
    meter.start()
    try:
        found = _run(models, mine, lambda done: meter.advance(min(done * world.size, len(jobs))))
    finally:
        meter.stop()
    outcome = {label: error for part in gather(found, world) for label, error in part.items()}
    failed = [error for job in jobs if (error := outcome[job.label]) is not None]
    if failed:
        raise _summary(failed, len(jobs), console if world.leads else None)
    return [job.label for job in jobs]


def plan(paths: Sequence[Path], output: Path) -> list[Job]:
    """Where the predictions of files and folders go, without touching anything.

    A file lands in `output` itself. A folder keeps its structure below `output`; of several paths,
    each folder keeps its own name too. Names that only their ending, letter case or place told
    apart get -2, -3, ... in the order given. Linked folders are followed, hidden files and
    `output` itself left out.

    Raises:
        SegueError: as for `predict`, before anything is written.
    """
    if output.exists() and not output.is_dir():
        raise SegueError("is a file, not a folder", where=output, fix="choose another output")
    home, seen, taken = output.resolve(), set[str](), set[str]()
    jobs = []
    for image, wanted in _found(paths, home):
        # Not resolved: a link under another name is an image of its own.
        if (absolute := str(image.absolute())) in seen:
            continue
        seen.add(absolute)
        name = _free(wanted, taken)
        label, colour = (name.with_name(f"{name.name}_{kind}.png") for kind in ("label", "colour"))
        jobs.append(Job(image, output / label, output / colour))
    _refuse_harm(jobs, home)
    return jobs


def _found(paths: Sequence[Path], home: Path) -> Iterator[tuple[Path, Path]]:
    """Images with the names, without ending, that they want below the output."""
    if not paths:
        raise SegueError("no images are given", fix="name image files or folders")
    for path in paths:
        if path.is_file():
            yield path, Path(path.stem)
            continue
        if not path.is_dir():
            raise SegueError("no such file or folder", where=path, fix="check the path")
        if path.resolve() == home:
            raise SegueError(
                "is both read from and written to", where=path, fix="choose another output"
            )
        images = sorted(_images(path, home))
        if not images:
            raise SegueError("holds no image", where=path, fix=f"they end in {' '.join(SUFFIXES)}")
        base = Path(path.resolve().name) if len(paths) > 1 else Path()
        for image in images:
            yield image, base / image.relative_to(path).with_suffix("")


def _images(folder: Path, home: Path) -> Iterator[Path]:
    visited: set[str] = set()  # links may lead round in a circle
    for place, folders, files in os.walk(folder, followlinks=True):
        true_place = os.path.realpath(place)
        if true_place in visited or Path(true_place) == home:
            folders.clear()
            continue
        visited.add(true_place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(place, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _free(wanted: Path, taken: set[str]) -> Path:
    """The name, numbered where it is taken on any file system."""
    name, number = wanted, 1
    while (key := unicodedata.normalize("NFC", name.as_posix()).casefold()) in taken:
        number += 1
        name = wanted.with_name(f"{wanted.name}-{number}")
    taken.add(key)
    return name


def _refuse_harm(jobs: Iterable[Job], home: Path) -> None:
    inputs = {job.image.resolve(): job.image for job in jobs}
    for job in jobs:
        # A folder below the output may be a link that leads out of it.
        if not job.label.parent.resolve().is_relative_to(home):
            raise SegueError(
                "is a link that leads out of the output", where=job.label.parent, fix="remove it"
            )
        for path in (job.label, job.colour):
            if path.resolve() in inputs:
                raise SegueError(
                    f"the prediction of {job.image} would overwrite this input",
                    where=path,
                    fix="choose another output",
                )


def _run(
    models: Ensemble, jobs: Sequence[Job], advance: Callable[[int], None]
) -> dict[Path, SegueError | None]:
    """Predicts all and tells by label file what went wrong, None where nothing did.

    Decoding runs ahead and encoding behind, in threads.
    """
    outcome: dict[Path, SegueError | None] = {}
    threads = min(MOST_WRITERS, available_cores())
    writing: deque[Future[Path]] = deque()
    with ThreadPoolExecutor(threads) as writers:
        for done, (job, image) in enumerate(ahead(_decoded, jobs, most=AHEAD), 1):
            label = image if isinstance(image, SegueError) else _label(models, job, image)
            if isinstance(label, SegueError):
                outcome[job.label] = label
            else:
                writing.append(writers.submit(_write, job, label, models.label_space))
            while len(writing) > 2 * threads:
                outcome[writing.popleft().result()] = None
            advance(done)
        outcome |= {future.result(): None for future in writing}
    return outcome


def _decoded(job: Job) -> tuple[Job, NDArray[np.uint8] | SegueError]:
    try:
        return job, as_array(job.image)
    except SegueError as error:
        return job, error


def _label(models: Ensemble, job: Job, image: NDArray[np.uint8]) -> NDArray[np.uint8] | SegueError:
    try:
        return models.predict(image)
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch tells a lack of memory by the text alone.
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not full and "allocate memory" not in str(error):
            raise
        height, width = image.shape[:2]
        return SegueError(
            f"{width}x{height} pixels do not fit the memory",
            where=job.image,
            fix="cut it into smaller images, or use device=cpu",
        )


def _write(job: Job, label: NDArray[np.uint8], space: LabelSpace) -> Path:
    pictures = ((job.colour, space.palette_png(label)), (job.label, Image.fromarray(label)))
    for path, picture in pictures:
        write_whole(path, lambda file, picture=picture: picture.save(file, "PNG"))  # type: ignore[misc]
    return job.label


def _summary(failed: Sequence[SegueError], total: int, console: Console | None) -> SegueError:
    """The error that ends it all, one line for each failure shown and noted."""
    names = ", ".join(printable(str(error.where)) for error in failed[:3])
    summary = SegueError(
        f"{len(failed)} of {total} images could not be predicted",
        fix=f"the others are done; mend or remove {names}{', ...' if len(failed) > 3 else ''}",
    )
    for error in failed:
        summary.add_note(str(error))
        if console is not None:
            console.print(str(error), markup=False, highlight=False, soft_wrap=True)
    return summary
