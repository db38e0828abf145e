"""Checkpoints: the whole state of a run in one file, written whole or not at all, and sealed.

A file ends with the SHA-256 of all before it, which is looked at before anything is read. It costs
a quarter of a second for 350 MB, once when it is written and once when it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from segue.errors import SegueError
from segue.storage.whole import _SEAL, DamagedError, _seal, _Sealing, write_whole

FORMAT = 2  # 1 had no seal
_NAME = re.compile(r"iteration_(\d+)\.pt")
_SEALED = len(_SEAL) + 2 * hashlib.sha256().digest_size


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
