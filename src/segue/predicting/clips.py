"""Videos and streams: an overlay video, or files for each frame."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import cv2
from rich.console import Console

from segue.errors import SegueError
from segue.inference.model import Ensemble
from segue.predicting.frames import AHEAD, Film, Frame, opened
from segue.predicting.kept_labels import KeptLabels
from segue.predicting.plan import Clip, Job
from segue.predicting.through_network import Image, predicted, write_all
from segue.predicting.writing import Predicted
from segue.runtime.progress import Meter
from segue.runtime.signals import Stopped, postponed

CODEC = "mp4v"


def predict_clip(
    models: Ensemble, clip: Clip, *, batch: int = 1, resume: bool = False, console: Console | None
) -> None:
    """Writes what a video or stream becomes, with no more than a few of its frames in memory.

    What is live ends with Ctrl-C, and what has come until then is kept.

    Raises:
        SegueError: it cannot be opened or written, has no frame, or a piped image is damaged;
            frames before it are written.
    """
    write = write_frames if clip.frames else write_overlay
    with opened(clip.source, models.range) as film:
        meter = Meter(console, f"predict {clip.source.name}", film.total, "frame")
        meter.start()
        try:
            with _until_interrupted(film):
                done = write(models, clip, film, meter, batch=batch, resume=resume)
        finally:
            meter.stop()
    if not done:
        fix = "look at it with another program"
        raise SegueError("holds no frame that can be read", where=clip.source.shown, fix=fix)
    # Containers tell their length roughly.
    if console is not None and film.total is not None and done < 0.9 * film.total:
        told = f"{clip.source.shown}: {done} of about {film.total} frames could be read"
        console.print(told, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _until_interrupted(film: Film) -> Iterator[None]:
    """Lets Ctrl-C end what is live, as its good end; `Film.frames` hears of it."""
    if not film.source.live:
        yield
        return
    whole = False
    try:
        with postponed():
            yield
            whole = True
    except Stopped as stopped:
        if not whole or stopped.number != signal.SIGINT:
            raise


def write_frames(
    models: Ensemble, clip: Clip, film: Film, meter: Meter, *, batch: int, resume: bool
) -> int:
    """Writes the files of each frame; with `resume` those whose files are there are left out.

    Returns:
        How many frames there were.
    """
    there = 0
    numbers: dict[Job, int] = {}
    broken: list[SegueError] = []

    def wanted(number: int) -> bool:
        nonlocal there
        there = number + 1
        return not (resume and clip.job(number).is_done())

    def jobs() -> Iterator[tuple[Job, Image]]:
        try:
            for number, image in frames:
                job = clip.job(number)
                numbers[job] = number
                yield job, image
        except SegueError as error:
            broken.append(error)  # raised when all before it is written

    with closing(film.frames(wanted, most=max(AHEAD, batch))) as frames:
        outcome = write_all(
            models,
            jobs(),
            clip.write,
            where=lambda job: f"{clip.source.shown}, frame {numbers[job]}",
            batch=1 if film.source.live else batch,
            advance=lambda job: meter.advance(numbers.pop(job) + 1),
        )
    for error in (*outcome.values(), *broken):
        if error is not None:
            raise error
    return there


def write_overlay(
    models: Ensemble, clip: Clip, film: Film, meter: Meter, *, batch: int, resume: bool
) -> int:
    """Writes the classes' colours over each frame as a video, which is whole or not there.

    Labels are kept beside it meanwhile, and `resume` takes them up. Frames of what is live that the
    network had no time for show what came next, so that the video runs as time did.

    Returns:
        How many frames there were.
    """
    done, path, kept = 0, clip.source.path, None
    if path is not None:
        beside = clip.target.with_name(f"{clip.target.name}.labels")
        kept = KeptLabels(beside, path, models.label_space.classes, resume=resume)
    most = 1 if film.source.live else batch
    try:
        with (
            video_file(clip.target, film.rate) as add,
            closing(film.frames(most=max(AHEAD, most))) as frames,
        ):
            for number, frame in _labelled(models, clip, frames, kept, most):
                overlay = frame.overlay
                for _ in range(done, number + 1):
                    add(overlay)
                done = number + 1
                meter.advance(done)
    finally:
        if kept is not None:
            kept.close()
    if kept is not None:
        kept.path.unlink(missing_ok=True)
    return done


def _labelled(
    models: Ensemble, clip: Clip, frames: Iterator[Frame], kept: KeptLabels | None, batch: int
) -> Iterator[tuple[int, Predicted]]:
    if kept is not None:
        for label, (number, image) in zip(kept.stored(), frames, strict=False):
            yield number, Predicted(image, label, None, models.label_space)
    found = predicted(
        models, frames, where=lambda number: f"{clip.source.shown}, frame {number}", batch=batch
    )
    for number, result in found:
        if isinstance(result, SegueError):
            raise result
        if kept is not None:
            kept.add(result.labels)
        yield number, result


@contextmanager
def video_file(target: Path, rate: float) -> Iterator[Callable[[Image], None]]:
    """Gives what adds RGB frames to a video, which is put in place once it is whole.

    Frames get the size of the first; a last odd row or column is left out, as the codec wants.

    Raises:
        SegueError: it cannot be written.
    """
    partial = target.with_name(f"{target.stem}.partial{target.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    writer: cv2.VideoWriter | None = None
    size, count = (0, 0), 0

    def add(image: Image) -> None:
        nonlocal writer, size, count
        if writer is None:
            size = (image.shape[1], image.shape[0])
            writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*CODEC), rate, size)
            if not writer.isOpened():
                told = f"no video of {size[0]}x{size[1]} pixels can be written here"
                raise SegueError(told, where=target, fix="choose another output, or add --frames")
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        writer.write(bgr if (bgr.shape[1], bgr.shape[0]) == size else cv2.resize(bgr, size))
        count += 1

    try:
        yield add
        if writer is not None:
            writer.release()
            _refuse_short(partial, target, count)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(target)
    finally:
        if writer is not None:
            writer.release()
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _refuse_short(partial: Path, target: Path, count: int) -> None:
    """Looks whether all frames arrived: OpenCV says nothing of a disk that is full."""
    written = cv2.VideoCapture(str(partial))
    found = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
    written.release()
    if found < count:
        told = f"only {found} of {count} frames could be written"
        raise SegueError(told, where=target, fix="look whether the disk is full; add --resume")
