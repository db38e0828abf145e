"""Checkpoints: the whole state of a run in one file, written whole or not at all, and sealed.

A file ends with the SHA-256 of all before it, which is looked at before anything is read. It costs
a quarter of a second for 350 MB, once when it is written and once when it is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from segue.errors import SegueError

FORMAT = 2  # 1 had no seal
_NAME = re.compile(r"iteration_(\d+)\.pt")
_SEAL = b"\nsegue sha256 "
_SEALED = len(_SEAL) + 2 * hashlib.sha256().digest_size


class DamagedError(SegueError):
    """A file that no longer is what was written."""


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file under another name, flushes it to disk and puts it in place in one move.

    Raises:
        SegueError: no space is left, or the folder cannot be written to.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        told = _reason(error, path, write)
        if told is None:
            raise
        raise told from error


def append(path: Path, text: str) -> None:
    """Adds text to the end of a file.

    Raises:
        SegueError: no space is left, or the file cannot be written to.
    """
    try:
        with path.open("a") as file:
            file.write(text)
    except OSError as error:
        told = _reason(error, path, lambda sink: sink.write(text.encode()))
        assert told is not None
        raise told from error


class _Sealing:
    """A file whose every byte is counted and digested on its way; without one, counted alone."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._file, self._digest, self.count = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.count += len(data)
        if self._file is not None:
            self._digest.update(data)
            self._file.write(data)
        return len(data)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def seal(self) -> bytes:
        return _seal(self._digest.hexdigest())


def _seal(digest: str) -> bytes:
    return _SEAL + digest.encode()


def _reason(
    error: BaseException, path: Path, write: Callable[[BinaryIO], object]
) -> SegueError | None:
    cause: BaseException | None = error
    # torch's zip writer raises an error of its own over the system's, or in its place.
    while isinstance(cause, RuntimeError) and cause.__context__ is not None:
        cause = cause.__context__
    code = getattr(cause, "errno", None)
    if isinstance(error, RuntimeError) and code is None and "file write failed" in str(error):
        code = errno.ENOSPC
    if code == errno.EFBIG:
        what = f"files may not become so large here: {_needed(write)} are needed"
        return SegueError(what, where=path, fix="raise the limit (ulimit -f) and run again")
    if code in (errno.ENOSPC, errno.EDQUOT):
        what = f"no space left on the disk: {_needed(write)} are needed{_free(path.parent)}"
        return SegueError(what, where=path, fix="free some and run again")
    if isinstance(cause, OSError):
        return SegueError(cause.strerror or str(cause), where=path, fix="check the folder")
    return None


def _needed(write: Callable[[BinaryIO], object]) -> str:
    """How much a writer writes, found by letting it write to nowhere."""
    nowhere = _Sealing()
    with suppress(Exception):
        write(cast(BinaryIO, nowhere))
    return _size(nowhere.count)


def _free(folder: Path) -> str:
    try:
        return f", {_size(shutil.disk_usage(folder).free)} are free"
    except OSError:
        return ""


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count:,} bytes"


def path_of(folder: Path, iteration: int) -> Path:
    """Where the checkpoint of an iteration lies."""
    return folder / f"iteration_{iteration:06d}.pt"


def save(folder: Path, iteration: int, state: dict[str, Any], *, keep: int = 2) -> None:
    """Writes the state of a run after `iteration` iterations, and keeps the newest few."""
    whole = {"format": FORMAT, "iteration": iteration, **state}

    def write(file: BinaryIO) -> None:
        sealing = _Sealing(file)
        torch.save(whole, cast(BinaryIO, sealing))
        file.write(sealing.seal())

    write_whole(path_of(folder, iteration), write)
    _settle(folder)
    for _, old in found(folder)[:-keep]:
        old.unlink()
    # Of a process that was killed while it wrote.
    for left in folder.glob("*.partial"):
        left.unlink()


def _settle(folder: Path) -> None:
    """Lets the move of a file into its place reach the disk, before what it replaces goes."""
    with suppress(OSError):
        place = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def found(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by iteration, oldest first."""
    paths = folder.glob("iteration_*.pt") if folder.is_dir() else ()
    numbered = [(int(match[1]), path) for path in paths if (match := _NAME.fullmatch(path.name))]
    return sorted(numbered)


def newest(folder: Path) -> tuple[dict[str, Any] | None, list[DamagedError]]:
    """The newest checkpoint that is whole, or None where there is none, and what the newer lack.

    Raises:
        SegueError: all there are are damaged, or one is of a newer format.
    """
    damaged: list[DamagedError] = []
    for _, path in reversed(found(folder)):
        try:
            return load(path), damaged
        except DamagedError as error:
            damaged.append(error)
    if damaged:
        fix = f"delete {folder.parent} to start the stage anew"
        raise SegueError(f"{damaged[0].what}, and no other is whole", where=folder, fix=fix)
    return None, []


def set_aside(path: Path) -> None:
    """Puts a damaged checkpoint under another name, where nothing looks for it."""
    path.rename(path.with_name(f"{path.name}.damaged"))


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; tensors and plain values only, never code.

    Raises:
        DamagedError: it is cut short or altered, or is not a checkpoint.
        SegueError: it cannot be opened, or is of a newer format.
    """
    with _opened(path) as file:
        sealed = _looked_at(path, file)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        # A damaged file makes torch raise whatever its bytes lead to.
        except Exception as error:
            raise DamagedError(
                "cannot be read as a checkpoint", where=path, fix="delete it to use the one before"
            ) from error
    told = state if isinstance(state, dict) else {}
    if told.get("format") not in range(1, FORMAT + 1) or not isinstance(told.get("iteration"), int):
        raise SegueError("is not a checkpoint of this version", where=path, fix="upgrade Segue")
    if told["format"] > 1 and not sealed:
        raise _broken_seal(path)
    return told


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise SegueError(error.strerror or str(error), where=path, fix="check the file") from error


def _looked_at(path: Path, file: BinaryIO) -> bool:
    """Whether a file is sealed; its seal is right."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SEALED))
    seal = file.read()
    file.seek(0)
    if not seal.startswith(_SEAL):
        return False
    digest, left = hashlib.sha256(), size - _SEALED
    while left > 0 and (data := file.read(min(left, 2**20))):
        digest.update(data)
        left -= len(data)
    if _seal(digest.hexdigest()) != seal:
        raise _broken_seal(path)
    file.seek(0)
    return True


def _broken_seal(path: Path) -> DamagedError:
    fix = "delete it to use the one before"
    return DamagedError("is damaged: its checksum is not that of its contents", where=path, fix=fix)
