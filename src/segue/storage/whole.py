"""Files written whole or not at all, with a checksum where one is wanted, and rows of them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from segue.errors import SegueError


def write_json(path: Path, told: dict[str, Any]) -> None:
    """Writes a small file of this format, whole or not at all."""
    text = json.dumps({"format": 1, **told}, indent=1)
    write_whole(path, lambda file: file.write(text.encode()))


def read_json(path: Path, *, fix: str) -> dict[str, Any]:
    """A small file of this format; empty where there is none.

    Args:
        path: the file.
        fix: what to do where it is damaged.

    Raises:
        SegueError: it is damaged.
    """
    try:
        return dict(json.loads(path.read_bytes())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise SegueError("is damaged", where=path, fix=fix) from error


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, up to a line cut short by a crash or that is none."""
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


_SEAL = b"\nsegue sha256 "


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
