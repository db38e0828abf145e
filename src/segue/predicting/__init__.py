"""Predictions of images, videos and streams of any size, as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from segue.errors import SegueError, printable
from segue.inference.inputs import as_array
from segue.inference.model import Ensemble
from segue.predicting.clips import predict_clip
from segue.predicting.frames import AHEAD
from segue.predicting.plan import FRAMES, Clip, Job, plan
from segue.predicting.through_network import write_all
from segue.predicting.writing import DEFAULT, kinds, refuse_unfit
from segue.runtime.prefetch import ahead
from segue.runtime.processes import World, gather, meet
from segue.runtime.progress import Meter

__all__ = ["kinds", "plan", "predict", "tell"]

ALONE = World()


def predict(
    models: Ensemble,
    paths: Sequence[Path | str],
    output: Path,
    *,
    write: Sequence[str] = DEFAULT,
    frames: bool = False,
    batch: int = 1,
    resume: bool = False,
    world: World = ALONE,
    console: Console | None = None,
) -> list[Path]:
    """Writes `<name>_label.png` (train ids, 8 bits) and `<name>_colour.png` for every image.

    Each at the image's own size. Of a video or a camera comes `<name>_overlay.mp4`, with `frames`
    and of what is piped in the folder `<name>_frames` with the files of each frame, counted from 0.
    A file that is no image does not stop the others; where names lie below `output` says `plan`.
    Files are written whole or not at all.

    Args:
        models: what `segue.load` gave; its policy decides how it looks at images.
        paths: image and video files, folders that are searched through and through, patterns such
            as `frames/**/*.jpg`; as text also `camera:0`, an address of a stream, and `-` for
            images that are piped in.
        output: the folder to write to, made if need be.
        write: what is written of an image or frame, names of `segue.predicting.writing.WRITERS`.
        frames: of videos write the files of each frame, and no overlay video.
        batch: how many images, or windows of one, go through a network together.
        resume: leave out images and frames whose files are all there and no older than what they
            are of, and take up the labels of a video that was interrupted. Which model made them
            is not known: without it everything is predicted anew.
        world: process r of n takes images r, r + n, r + 2 n, ..., and likewise whole video files;
            streams are the first one's. All see the same files, and what each file is called does
            not depend on how many they are.
        console: where to show progress and what failed; None keeps silent.

    Returns:
        The first file of each image that was written, by any process, in the order of the images,
        then the video or folder of each video and stream.

    Raises:
        SegueError: a path is missing, a folder holds no image, a prediction would land on an
            input or outside `output`, a submission is of other classes or names, no space is left;
            or, when all else is done, some could not be predicted: its notes hold one line for
            each.
    """
    refuse_unfit(write, models.label_space)
    whole = plan(paths, output, write=write, frames=frames)
    jobs = [job for job in whole.images if not (resume and job.is_done())]
    clips = [clip for clip in whole.clips if not (resume and clip.is_done())]
    for clip in clips:
        _refuse_mixture(clip, resume=resume)
    # Whoever writes before all have looked changes what the others find to be left.
    meet(world)
    shown = console if world.leads else None
    found: dict[Path, SegueError | None] = {}
    if jobs:
        found |= _predict_images(models, jobs, write, batch=batch, world=world, console=shown)
    for clip in _share(clips, world):
        found[clip.target] = _predict_clip(models, clip, batch=batch, resume=resume, console=shown)
    outcome = {path: error for part in gather(found, world) for path, error in part.items()}
    wanted = [*(job.outputs[0] for job in jobs), *(clip.target for clip in clips)]
    failed = [error for path in wanted if (error := outcome[path]) is not None]
    if failed and len(wanted) == 1 and clips:
        raise failed[0]
    if failed:
        raise _summary(failed, len(wanted), shown, clips=bool(clips))
    return wanted


def tell(written: Sequence[Path], output: Path) -> str:
    """What was written, in a line.

    Example:
        >>> tell([Path("out/a_label.png"), Path("out/b_overlay.mp4")], Path("out"))
        '1 image and 1 video labelled in out'
        >>> tell([Path("out/stdin_frames")], Path("out"))
        'frames of 1 video or stream labelled in out'
    """
    images = sum(path.suffix == ".png" for path in written)
    framed = sum(path.name.endswith(FRAMES) for path in written)
    counted = (
        (images, "image", "images"),
        (len(written) - images - framed, "video", "videos"),
        (framed, "video or stream", "videos or streams"),
    )
    parts = [f"{count} {one if count == 1 else many}" for count, one, many in counted if count]
    if framed:
        parts[-1] = f"frames of {parts[-1]}"
    return f"{' and '.join(parts) or '0 images'} labelled in {output}"


def _predict_clip(
    models: Ensemble, clip: Clip, *, batch: int, resume: bool, console: Console | None
) -> SegueError | None:
    """Predicts a video or stream; what was wrong with it, where the next may fare better."""
    try:
        predict_clip(models, clip, batch=batch, resume=resume, console=console)
    except SegueError as wrong:
        # No decoder's complaint, but the system's: what comes next would not fare better.
        if isinstance(wrong.__cause__, OSError) and wrong.__cause__.errno is not None:
            raise
        return wrong
    return None


def _refuse_mixture(clip: Clip, *, resume: bool) -> None:
    """Refuses to lay frames among those of another video, and to record over a recording."""
    if clip.source.live and clip.target.exists():
        fix = "choose another output"
        raise SegueError("holds an earlier recording", where=clip.target, fix=fix)
    if clip.frames and not resume and clip.target.is_dir() and any(clip.target.iterdir()):
        fix = "add --resume to go on with them, or remove them"
        raise SegueError("holds frames of an earlier prediction", where=clip.target, fix=fix)


def _share(clips: Sequence[Clip], world: World) -> list[Clip]:
    """The video files that are this process's, and for the first all streams."""
    files = [clip for clip in clips if clip.source.path is not None]
    others = [clip for clip in clips if clip.source.path is None]
    return files[world.rank :: world.size] + (others if world.leads else [])


def _predict_images(
    models: Ensemble,
    jobs: Sequence[Job],
    write: Sequence[str],
    *,
    batch: int,
    world: World,
    console: Console | None,
) -> dict[Path, SegueError | None]:
    """Predicts this process's share; decoding runs ahead and encoding behind, in threads."""
    done = 0

    def advance(_: Job) -> None:
        nonlocal done
        done += 1
        meter.advance(min(done * world.size, len(jobs)))

    def images() -> Iterator[tuple[Job, NDArray[np.uint8] | SegueError]]:
        yield from ahead(decoded, jobs[world.rank :: world.size], most=max(AHEAD, batch))

    def decoded(job: Job) -> tuple[Job, NDArray[np.uint8] | SegueError]:
        assert job.image is not None
        try:
            return job, as_array(job.image, models.range)
        except SegueError as error:
            return job, error

    meter = Meter(console, "predict", len(jobs), "img")
    meter.start()
    try:
        return write_all(
            models, images(), write, where=lambda job: job.image, batch=batch, advance=advance
        )
    finally:
        meter.stop()


def _summary(
    failed: Sequence[SegueError], total: int, console: Console | None, *, clips: bool
) -> SegueError:
    """The error that ends it all, one line for each failure shown and noted."""
    names = ", ".join(printable(str(error.where)) for error in failed[:3])
    what = "images and videos" if clips else "images"
    summary = SegueError(
        f"{len(failed)} of {total} {what} could not be predicted",
        fix=f"the others are done; mend or remove {names}{', ...' if len(failed) > 3 else ''}",
    )
    for error in failed:
        summary.add_note(str(error))
        if console is not None:
            console.print(str(error), markup=False, highlight=False, soft_wrap=True)
    return summary
