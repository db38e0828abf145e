"""A work_dir belongs to one run at a time."""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from segue.errors import SegueError
from segue.runtime import processes as distributed
from segue.runtime.processes import World

FILE = ".lock"
# Of file systems that know no locks.
_WITHOUT = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(folder: Path, world: World) -> Iterator[None]:
    """Keeps a folder for this run, in its leading process, until it ends in whatever way.

    The system lets go of the lock when the process is gone: none is ever left behind.

    Raises:
        SegueError: another process holds it, or the folder cannot be written to; the same in every
            process, and only once all of them are here to be told.
    """
    with ExitStack() as held:
        refused: SegueError | None = None
        if world.leads and sys.platform != "win32":
            try:
                held.enter_context(_lock(folder))
            except SegueError as error:
                refused = error
        # Were the leader to leave at once, the others would lose it while they still connect.
        refused = distributed.gather(refused, world)[0]
        if refused is not None:
            raise refused
        yield


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    import fcntl

    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        fix = "choose a work_dir that can be written to"
        raise SegueError(error.strerror or str(error), where=error.filename, fix=fix) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _WITHOUT:
                raise _taken(folder, path) from error
        # Who it is helps whoever is refused; a full disk will be told of elsewhere.
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        os.close(file)


def _taken(folder: Path, path: Path) -> SegueError:
    who = path.read_text().strip() or "another process"
    fix = "wait for it, stop it, or choose another work_dir"
    return SegueError(f"another run is writing here: {who}", where=folder, fix=fix)
