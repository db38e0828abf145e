"""What a benchmark row is, and how it is measured: both sides in turn, in one process."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Work = Callable[[], Any]


@dataclass(frozen=True)
class Sides:
    """The same work twice, on the same data; each call does all of it anew.

    Args:
        ours: what Segue does.
        plain: the formula written out, or the field's common code for it.
        difference: of what the two return, the largest; None where the row is of time alone.
    """

    ours: Work
    plain: Work
    difference: Callable[[Any, Any], float] | None = None


@dataclass(frozen=True)
class Row:
    """One claim.

    Args:
        name: the work, with its sizes.
        against: what the plain side is, in a few words.
        make: builds data and networks, which are not measured, and returns the sides.
        faster: the least ratio of CPU seconds that is aimed at.
        memory: the most, as a share of the plain side's peak, that is aimed at.
        within: the largest difference that is aimed at.
        uses: how often one iteration (or what else `WHOLES` in bench.py names) does this.
        repeats: how often each side is timed.
        refuses: why the row cannot be measured on this machine; None where it can.
        note: what a reader must know.
    """

    name: str
    against: str
    make: Callable[[], Sides]
    faster: float | None = None
    memory: float | None = None
    within: float | None = None
    uses: dict[str, float] = field(default_factory=dict)
    repeats: int = 5
    refuses: Callable[[], str | None] = lambda: None
    note: str = ""


def measure(row: Row) -> dict[str, Any]:
    """Medians of CPU seconds and wall seconds, peak memory of each side and their difference."""
    sides = row.make()
    works = {"ours": sides.ours, "plain": sides.plain}
    peaks = {name: peak(work) for name, work in works.items()}
    results = {name: work() for name, work in works.items()}  # the first call warms up
    difference = sides.difference(results["ours"], results["plain"]) if sides.difference else None
    del results
    cpu: dict[str, list[float]] = {name: [] for name in works}
    wall: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(row.repeats):
        for name, work in works.items():
            gc.collect()
            begun, clock = time.process_time(), time.perf_counter()
            work()
            cpu[name].append(time.process_time() - begun)
            wall[name].append(time.perf_counter() - clock)
    ratios = [plain / ours for ours, plain in zip(cpu["ours"], cpu["plain"], strict=True)]
    return {
        "seconds": {name: statistics.median(values) for name, values in cpu.items()},
        "wall_seconds": {name: statistics.median(values) for name, values in wall.items()},
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
        "peak_bytes": peaks,
        "difference": difference,
    }


def peak(work: Work) -> int:
    """Bytes by which the process grew at most while it worked (Linux; 0 elsewhere)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    gc.collect()
    # Or what an earlier work let go of would be had for nothing.
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _kilobytes(status, "VmRSS")
    work()
    return 1024 * max(0, _kilobytes(status, "VmHWM") - before)


def _kilobytes(status: Path, name: str) -> int:
    lines = (line.split() for line in status.read_text().splitlines())
    return next(int(words[1]) for words in lines if words[0] == f"{name}:")
