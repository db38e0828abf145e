"""Which files come of which images, videos and streams, without touching anything."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segue.errors import SegueError
from segue.predicting.sources import IMAGES, VIDEOS, Source, source_of, streamed
from segue.predicting.writing import DEFAULT, SUBMISSIONS, WRITERS

FRAMES = "_frames"  # what the folder of a video's frames is called after its name
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Job:
    """An image, or the video of a frame, and the files that its prediction goes to.

    Args:
        image: None where frames come from no file.
        outputs: one for each writer; the first one names it.
    """

    image: Path | None
    outputs: tuple[Path, ...]

    def is_done(self) -> bool:
        """Whether all files are there and no older than the image."""
        return all(is_newer(path, self.image) for path in self.outputs)


@dataclass(frozen=True)
class Clip:
    """A video or stream and what its prediction goes to.

    Args:
        source: where its frames come from.
        target: the video file; with `frames` the folder.
        write: names of the writers of a frame.
        frames: whether files are written for each frame, and no video.
    """

    source: Source
    target: Path
    write: tuple[str, ...]
    frames: bool

    def job(self, number: int) -> Job:
        """A frame, counted from 0, and its files."""
        name = f"{number:06}"
        places = (WRITERS[one].place(Path(name), name) for one in self.write)
        return Job(self.source.path, tuple(self.target / place for place in places))

    def is_done(self) -> bool:
        """Whether its video is whole and no older than the file that it is of."""
        again = not self.source.live
        return again and not self.frames and is_newer(self.target, self.source.path)


@dataclass(frozen=True)
class Plan:
    """All that is to be predicted."""

    images: list[Job] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)


def is_newer(path: Path, source: Path | None) -> bool:
    """Whether a file is there and no older than what it was made of."""
    since = source.stat().st_mtime if source is not None else 0
    return path.is_file() and path.stat().st_mtime >= since


def plan(
    paths: Sequence[Path | str],
    output: Path,
    *,
    write: Sequence[str] = DEFAULT,
    frames: bool = False,
) -> Plan:
    """Where the predictions of files, folders, patterns, videos and streams go.

    A file lands in `output` itself. A folder keeps its structure below `output`, and a pattern that
    of the folder in front of its first wildcard; of several paths, each folder keeps its own name
    too. Names that only their ending, letter case or place told apart get -2, -3, ... in the order
    given. Linked folders are followed, hidden files and `output` itself left out. A video becomes
    `<name>_overlay.mp4`, or with `frames` the folder `<name>_frames`; what comes by stdin always
    becomes a folder.

    Args:
        paths: as for `predict`.
        output: the folder to write to.
        write: names of writers.
        frames: of videos write the files of each frame, and no video.

    Raises:
        SegueError: as for `predict`, before anything is written.
    """
    if output.exists() and not output.is_dir():
        raise SegueError("is a file, not a folder", where=output, fix="choose another output")
    home, seen, taken = output.resolve(), set[str](), set[str]()
    whole = Plan()
    for source, wanted in _found(paths, home):
        # Not resolved: a link under another name is an image of its own.
        key = source.shown if source.path is None else str(source.path.absolute())
        if key in seen:
            continue
        seen.add(key)
        name = _free(wanted, taken)
        if source.kind == "image" and source.path is not None:
            whole.images.append(_job(source.path, name, output, write))
        else:
            whole.clips.append(_clip(source, output / name, write, frames))
    _refuse_harm(whole, home)
    return whole


def _job(image: Path, name: Path, output: Path, write: Sequence[str]) -> Job:
    try:
        places = [WRITERS[one].place(name, image.stem) for one in write]
    except SegueError as error:
        raise SegueError(error.what, where=image, fix=error.fix) from error
    return Job(image, tuple(output / place for place in places))


def _clip(source: Source, name: Path, write: Sequence[str], frames: bool) -> Clip:
    if submissions := [one for one in write if one in SUBMISSIONS]:
        told = f"a submission to {submissions[0]} is made of image files"
        raise SegueError(told, where=source.shown, fix="leave it out")
    if frames or source.kind == "piped":
        target = name.with_name(f"{name.name}{FRAMES}")
        return Clip(source, target, tuple(write), frames=True)
    if "confidence" in write:
        fix = "add --frames, for files of each frame"
        raise SegueError("its overlay video shows no confidence", where=source.shown, fix=fix)
    return Clip(source, name.with_name(f"{name.name}_overlay.mp4"), tuple(write), frames=False)


def _found(paths: Sequence[Path | str], home: Path) -> Iterator[tuple[Source, Path]]:
    """Images, videos and streams with the names, without ending, that they want in the output."""
    if not paths:
        raise SegueError("no images are given", fix="name image files or folders")
    for given in paths:
        stream = streamed(given) if isinstance(given, str) else None
        path = Path(given)
        if stream is not None:
            yield stream, Path(stream.name)
        elif path.is_file():
            yield source_of(path), Path(path.stem)
        elif path.is_dir():
            if path.resolve() == home:
                raise SegueError(
                    "is both read from and written to", where=path, fix="choose another output"
                )
            yield from _below(path, sorted(_files(path, home)), alone=len(paths) == 1)
        elif _WILDCARD.search(str(given)):
            base = _before_wildcard(path)
            yield from _below(base, _matching(str(given), home), alone=len(paths) == 1, of=given)
        else:
            raise SegueError("no such file or folder", where=path, fix="check the path")


def _below(
    base: Path, files: Sequence[Path], *, alone: bool, of: Path | str | None = None
) -> Iterator[tuple[Source, Path]]:
    """Files of a folder with their places below it, and below its name where it is not alone."""
    if not files:
        told = "holds no image" if of is None else "matches no image"
        raise SegueError(told, where=of or base, fix=f"they end in {' '.join(IMAGES)}")
    home = Path() if alone else Path(base.resolve().name)
    for file in files:
        yield source_of(file), home / file.relative_to(base).with_suffix("")


def _before_wildcard(pattern: Path) -> Path:
    """The folder in front of the first part that holds a wildcard.

    Example:
        >>> _before_wildcard(Path("a/b*/c.png")).as_posix()
        'a'
    """
    parts = pattern.parts
    first = next(number for number, part in enumerate(parts) if _WILDCARD.search(part))
    return Path(*parts[:first])


def _matching(pattern: str, home: Path) -> list[Path]:
    """Files that a pattern matches, and those of the folders that it matches."""
    found: set[Path] = set()
    # Not Path.glob, to which hidden files are as good as others.
    for match in map(Path, glob.iglob(pattern, recursive=True)):  # noqa: PTH207
        if match.is_dir():
            found.update(_files(match, home))
        elif _is_wanted(match) and not match.resolve().is_relative_to(home):
            found.add(match)
    return sorted(found)


def _files(folder: Path, home: Path) -> Iterator[Path]:
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
            if _is_wanted(path) and path.is_file():
                yield path


def _is_wanted(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGES, *VIDEOS) and not path.name.startswith(".")


def _free(wanted: Path, taken: set[str]) -> Path:
    """The name, numbered where it is taken on any file system."""
    name, number = wanted, 1
    while (key := unicodedata.normalize("NFC", name.as_posix()).casefold()) in taken:
        number += 1
        name = wanted.with_name(f"{wanted.name}-{number}")
    taken.add(key)
    return name


def _refuse_harm(whole: Plan, home: Path) -> None:
    made = [(job.image, path) for job in whole.images for path in job.outputs]
    made += [(clip.source.path, clip.target) for clip in whole.clips]
    inputs = {image.resolve(): image for image, _ in made if image is not None}
    makers: dict[Path, Path | None] = {}
    for image, path in made:
        # A folder below the output may be a link that leads out of it.
        if not path.parent.resolve().is_relative_to(home):
            raise SegueError(
                "is a link that leads out of the output", where=path.parent, fix="remove it"
            )
        # A link in place of a file is replaced, not followed.
        if path.resolve() in inputs:
            raise SegueError(
                f"the prediction of {image} would overwrite this input",
                where=path,
                fix="choose another output",
            )
        if path in makers:
            told = f"the predictions of {makers[path]} and {image} would both be this file"
            raise SegueError(told, where=path, fix="predict one of them elsewhere")
        makers[path] = image
