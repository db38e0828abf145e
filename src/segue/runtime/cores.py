"""How the cores of a machine are shared between training and reading files."""

from __future__ import annotations

import os

MOST_WORKERS = 8


def available_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers(cores: int, local_world: int = 1) -> int:
    """How many reading processes one training process gets, so that all fit on the cores.

    A quarter of the process's share, at least one, at most eight; none (reading happens between
    the steps) where the share is a single core.

    Args:
        cores: of the machine, as far as this job may use it.
        local_world: training processes on this machine.

    Example:
        >>> [default_workers(cores) for cores in (1, 2, 4, 16, 128)]
        [0, 1, 1, 4, 8]
    """
    share = cores // local_world
    return 0 if share < 2 else min(MOST_WORKERS, max(1, share // 4))


def training_threads(cores: int, local_world: int = 1) -> int:
    """How many threads a training process gets: its share of the cores.

    The reading processes, one thread each, work a few per cent of the time, so no core is held
    back for them.

    Example:
        >>> [training_threads(cores, 2) for cores in (1, 2, 16)]
        [1, 1, 8]
    """
    return max(1, cores // local_world)
