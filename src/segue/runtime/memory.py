"""How much memory there is, how much this process took, and how it says that there is no more."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from segue.errors import SegueError

SYSTEM = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

# How torch, oneDNN and the C++ library say it, where they do not raise torch.OutOfMemoryError.
_WORDS = ("allocate memory", "not enough memory", "bad_alloc", "could not create a memory")


def available(device: torch.device) -> int:
    """Bytes that a process may take on a device: free on a GPU, else of the machine or its cgroup.

    Example:
        >>> available(torch.device("cpu")) > 2**20
        True
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if not SYSTEM.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min((1024 * fields(SYSTEM)["MemAvailable"], *_of_cgroups()))


def peak(device: torch.device) -> int:
    """The most bytes that this process has held so far: on a GPU in tensors, else in all."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if STATUS.exists():
        return 1024 * fields(STATUS)["VmHWM"]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def fields(path: Path) -> dict[str, int]:
    """The numbers of a file of `Name: number unit` lines, such as /proc/meminfo."""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: int(rest.split()[0]) for name, _, rest in lines if rest.split()[:1] and
            rest.split()[0].isdigit()}  # fmt: skip


def _of_cgroups() -> Iterator[int]:
    """What each limit of a container or a cluster's job leaves, under cgroups of both versions."""
    if not MEMBERSHIP.exists():
        return
    for line in MEMBERSHIP.read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        root, names = (
            (CGROUPS, ("memory.max", "memory.current"))
            if controllers == ""
            else (CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"))
        )
        place = root / inside.strip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(root):
                yield from _left(folder, *names)


def _left(folder: Path, most: str, used: str) -> Iterator[int]:
    try:
        limit, now = ((folder / name).read_text().strip() for name in (most, used))
        statistics = dict(
            line.split() for line in (folder / "memory.stat").read_text().splitlines()
        )
    except OSError:
        return
    if limit != "max":
        # Files that were read count as used, and are let go of when memory is wanted.
        cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
        yield max(0, int(limit) - int(now) + cached)


def limit(most: int) -> None:
    """Lets this process allocate so many bytes more, and no others: then torch raises an error.

    Else the system would swap, or end this or another process. Linux alone keeps such limits.
    """
    if not STATUS.exists():
        return
    now = 1024 * fields(STATUS)["VmData"]
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = now + most
    if hard == resource.RLIM_INFINITY or wanted < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left.

    Example:
        >>> ran_out(MemoryError()), ran_out(RuntimeError("sizes do not match"))
        (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextmanager
def told(where: str) -> Iterator[None]:
    """Makes one line of running out of memory.

    Raises:
        SegueError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise SegueError(
            "memory ran out",
            where=where,
            fix="`segue check RECIPE --fit` measures what would fit: a smaller `size`, "
            "`checkpointing` or precision=bfloat16",
        ) from error
