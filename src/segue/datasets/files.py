"""Files of a dataset, as they lie or packed: `parts/01.zip/images/7.png` is a path into a ZIP file.

Such paths are like any other, but for opening them and looking whether they are there, which is
done here. Archives are opened once in each process and read by any number of threads.
"""

from __future__ import annotations

import errno
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from operator import attrgetter
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO
from zipfile import BadZipFile, ZipFile, ZipInfo

from segue.errors import SegueError


@dataclass(frozen=True)
class _Archive:
    file: ZipFile
    lock: Lock  # zipfile counts its open members without one
    members: Mapping[str, ZipInfo]


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, to be read from its start.

    Raises:
        OSError: it is not there, or may not be read.
        SegueError: the ZIP file it lies in is damaged there, or packed in a way nobody knows.
    """
    place = _in_zip(path)
    if place is None:
        with path.open("rb") as file:
            yield file
        return
    archive, name = _archive(place[0]), place[1]
    if name not in archive.members:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    fix = f"copy or download {place[0].name} again"
    try:
        member = _member(archive, path, name)
        try:
            yield member
        finally:
            with archive.lock:
                member.close()
    except (BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError) as error:
        raise SegueError(f"damaged inside its ZIP file ({error})", where=path, fix=fix) from error


def _member(archive: _Archive, path: Path, name: str) -> IO[bytes]:
    try:
        with archive.lock:
            return archive.file.open(archive.members[name])
    except (RuntimeError, NotImplementedError) as error:
        raise SegueError(
            f"cannot be unpacked ({error})", where=path, fix="pack it anew, without a password"
        ) from error


def is_file(path: Path) -> bool:
    """Whether it is there and is no folder."""
    place = _in_zip(path)
    return path.is_file() if place is None else place[1] in _archive(place[0]).members


def finder() -> Callable[[Path], bool]:
    """Tells whether a file lies unpacked; for many of few folders, each of which is listed once."""

    @cache
    def names(folder: str) -> frozenset[str]:
        try:
            with os.scandir(folder) as entries:
                return frozenset(entry.name for entry in entries if _is_file(entry))
        except OSError:
            return frozenset()

    def lies(path: Path) -> bool:
        folder, _, name = str(path).rpartition(os.sep)
        # A listing does not know other spellings, which some file systems take for the same.
        return name in names(folder or ".") or path.is_file()

    return lies


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def state(path: Path) -> tuple[int, int]:
    """What changes with the file: its bytes, and when it was written or, packed, its checksum.

    Raises:
        OSError: it is not there.
    """
    place = _in_zip(path)
    if place is None:
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    info = _archive(place[0]).members[place[1]]
    return info.file_size, info.CRC


def listed(root: Path, pattern: str, zips: str) -> dict[Path, Path]:
    """The files below `root` that match, sorted: each as it would lie unpacked, and as it lies.

    Args:
        root: a folder, a ZIP file, or a folder inside one.
        pattern: a glob below `root`; `**` goes through folders.
        zips: a glob of the ZIP files in `root` that are looked into where nothing lies unpacked.

    Raises:
        ValueError: the pattern is none.
        SegueError: a ZIP file is damaged.
    """
    parts = PurePosixPath(pattern).parts
    if not parts or parts[0] == "/":
        raise ValueError("it must be relative and not empty")
    if ".." in parts:
        raise ValueError("it must not lead out of the folder")
    if not is_zip(root):
        # As paths compare, which takes them many times as long.
        there = sorted(root.glob(pattern), key=attrgetter("parts"))
        lies = finder()
        lying = [path for path in there if lies(path)]
        if len(lying) < len(there):
            _refuse_lost(root, there)
        if lying:
            return {path: path for path in lying}
    found = packed(root, zips)
    chosen = [path for path in found if _matches(path.relative_to(root).parts, parts)]
    return {path: found[path] for path in sorted(chosen)}


def _refuse_lost(root: Path, paths: list[Path]) -> None:
    """Refuses links that lead nowhere: a disk that is not there must not make a dataset smaller."""
    lost = [path for path in paths if path.is_symlink() and not path.exists()]
    if lost:
        names = ", ".join(str(path.relative_to(root)) for path in lost[:3])
        more = "" if len(lost) <= 3 else ", ..."
        told = f"{len(lost)} of {len(paths)} images are links that lead nowhere: {names}{more}"
        raise SegueError(told, where=root, fix="mend or remove them")


def packed(root: Path, zips: str) -> dict[Path, Path]:
    """Where each file of the ZIP files in `root` would lie if they were unpacked there."""
    place = _in_zip(root)
    if place is not None:
        archive, inside = place
        start = "" if inside == "." else f"{inside}/"
        names = [name for name in _archive(archive).members if name.startswith(start)]
        return {archive / name: archive / name for name in names}
    found: dict[Path, Path] = {}
    for archive in sorted(root.glob(zips)):
        found |= {root / name: archive / name for name in _archive(archive).members}
    return found


def unpacked(path: Path) -> Path:
    """The path with its ZIP file taken for the folder around it.

    Example:
        >>> unpacked(Path("images/7.png")).as_posix()
        'images/7.png'
    """
    place = _in_zip(path)
    return path if place is None else place[0].parent / place[1]


def is_zip(path: Path) -> bool:
    """Whether it is a ZIP file, or a path into one."""
    return _in_zip(path) is not None


def _in_zip(path: Path) -> tuple[Path, str] | None:
    """The ZIP file that a path leads into, and the name there; nothing for other paths."""
    if ".zip" not in str(path).lower():
        return None
    for place in (path, *path.parents):
        # a folder may be called so too
        if place.suffix.lower() == ".zip" and place.is_file():
            return place, path.relative_to(place).as_posix()
    return None


def _archive(path: Path) -> _Archive:
    found = path.stat()
    # a forked process would share its parent's place in the file
    return _read_archive(path, os.getpid(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)  # GTA5 has twenty
def _read_archive(path: Path, process: int, size: int, written: int) -> _Archive:
    del process, size, written  # they tell archives of one name apart
    try:
        file = ZipFile(path)
    except (BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
        raise SegueError(
            f"no ZIP file, or not all of one ({error})", where=path, fix="download it again"
        ) from error
    members = {
        PurePosixPath(info.filename).as_posix(): info
        for info in file.infolist()
        # macOS packs a shadow of each file
        if not info.is_dir() and not info.filename.startswith("__MACOSX/")
    }
    for name in members:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise SegueError(f"holds {name!r}, which leads out", where=path, fix="pack it anew")
    return _Archive(file, Lock(), members)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path below a root matches a glob, as `Path.glob` would."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
