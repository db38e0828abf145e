"""Checkpoints: the whole state of a run in one file, written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from segue.errors import SegueError

FORMAT = 1
_NAME = re.compile(r"iteration_(\d+)\.pt")


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
        told = _reason(error, path, _remove(partial))
        if told is None:
            raise
        raise told from error


def _remove(partial: Path) -> int:
    try:
        written = partial.stat().st_size
        partial.unlink()
    except OSError:
        return 0
    return written


def _reason(error: BaseException, path: Path, written: int) -> SegueError | None:
    cause: BaseException | None = error
    # torch's zip writer raises an error of its own over the system's, or in its place.
    while isinstance(cause, RuntimeError) and cause.__context__ is not None:
        cause = cause.__context__
    full = getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or (isinstance(error, RuntimeError) and "file write failed" in str(error)):
        size = f" (it stopped after {written / 2**20:.1f} MiB)" if written else ""
        return SegueError(
            f"no space left on the disk{size}", where=path, fix="free some and run again"
        )
    if isinstance(cause, OSError):
        return SegueError(cause.strerror or str(cause), where=path, fix="check the folder")
    return None


def path_of(folder: Path, iteration: int) -> Path:
    """Where the checkpoint of an iteration lies."""
    return folder / f"iteration_{iteration:06d}.pt"


def save(folder: Path, iteration: int, state: dict[str, Any], *, keep: int = 2) -> None:
    """Writes the state of a run after `iteration` iterations, and keeps the newest few."""
    whole = {"format": FORMAT, "iteration": iteration, **state}
    write_whole(path_of(folder, iteration), lambda file: torch.save(whole, file))
    for _, old in found(folder)[:-keep]:
        old.unlink()


def found(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by iteration, oldest first."""
    paths = folder.glob("iteration_*.pt") if folder.is_dir() else ()
    numbered = [(int(match[1]), path) for path in paths if (match := _NAME.fullmatch(path.name))]
    return sorted(numbered)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; tensors and plain values only, never code.

    Raises:
        SegueError: the file is damaged, is not a checkpoint, or is of a newer format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged file makes torch raise whatever its bytes lead to.
    except Exception as error:
        raise SegueError(
            "cannot be read as a checkpoint", where=path, fix="delete it to use the one before"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise SegueError("is not a checkpoint of this version", where=path, fix="upgrade Segue")
    return state
