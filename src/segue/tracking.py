"""What a run leaves to read: metrics.jsonl, timing.jsonl, TensorBoard, and the line on screen.

Numbers that follow from the seed stand in metrics.jsonl; times and rates, which never repeat, in
timing.jsonl beside it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from segue import checkpoint, distributed
from segue.distributed import World
from segue.watch import Watch

METRICS, TIMING, WARNINGS = "metrics.jsonl", "timing.jsonl", "warnings.jsonl"


class Tracker:
    """Averages numbers over `every` iterations and writes them down.

    Args:
        folder: the stage's folder.
        iterations: how many there will be, for the time left.
        every: how many iterations a line of metrics.jsonl stands for.
        world: only its leader writes.
        console: where progress is shown; None keeps silent.
        title: what is shown beside the bar.
    """

    def __init__(
        self,
        folder: Path,
        *,
        iterations: int,
        every: int,
        world: World,
        console: Console | None = None,
        title: str = "train",
    ) -> None:
        self.folder, self.every, self.world = folder, every, world
        self.iterations = iterations
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._done = 0
        self._since = time.monotonic()
        self._board: Any = None
        self._watch = Watch()
        self._show = Meter(console if world.leads else None, title, iterations)

    def begin(self, iteration: int) -> None:
        """Opens the files, dropping what was written after the checkpoint that is resumed."""
        if not self.world.leads:
            return
        from torch.utils.tensorboard import SummaryWriter

        for name in (METRICS, TIMING, WARNINGS):
            _truncate(self.folder / name, iteration)
        last = 0
        for row in _rows_of(self.folder / METRICS):
            self._watch.look(row)
            last = int(row["iteration"])
        # A checkpoint is never ahead of what is written.
        if last < iteration - iteration % self.every:
            told = f"{METRICS} is damaged: its lines after iteration {last} and up to here are lost"
            self.warn(iteration, told)
        self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=iteration)
        self._since = time.monotonic()
        self._show.start(iteration)

    def note(self, iteration: int, numbers: Mapping[str, Tensor]) -> None:
        """Adds one iteration's numbers; a line is written when enough have come together."""
        for name, value in numbers.items():
            # Kept on the device: reading each number at once would make a GPU wait.
            value = value.detach().float().to(self.world.device)
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._done += 1
        self._show.advance(iteration + 1)
        # The last line stands for what is left, and before the last checkpoint is made.
        if (iteration + 1) % self.every == 0 or iteration + 1 == self.iterations:
            self._write(iteration + 1)

    def _write(self, done: int) -> None:
        means = [self._sums[name] / self._counts[name] for name in sorted(self._sums)]
        distributed.average(means, self.world)
        row = {name: float(mean) for name, mean in zip(sorted(self._sums), means, strict=True)}
        seconds = time.monotonic() - self._since
        rate = self._done / max(seconds, 1e-9)
        self._sums, self._counts, self._done, self._since = {}, {}, 0, time.monotonic()
        if not self.world.leads:
            return
        row = {"iteration": done, **row}
        _append(self.folder / METRICS, row)
        _append(self.folder / TIMING, {"iteration": done, "iterations_per_second": rate})
        for name, value in row.items():
            if name != "iteration":
                self._board.add_scalar(name, value, done)
        self._show.say(row)
        for text in self._watch.look(row):
            self.warn(done, text)

    def warn(self, iteration: int, text: str) -> None:
        """Shows that something about the numbers is wrong, and writes it to warnings.jsonl."""
        if self.world.leads:
            _append(self.folder / WARNINGS, {"iteration": iteration, "warning": text})
        self.tell(text)

    def tell(self, text: str) -> None:
        """Shows a line."""
        self._show.tell(text)

    def close(self) -> None:
        """Closes the files and takes the bar down."""
        if self._board is not None:
            # A full disk was told of before.
            with suppress(OSError):
                self._board.close()
        self._show.stop()

    def state_dict(self) -> dict[str, Any]:
        """Sums since the last line, of each process: every one must ask.

        What is written so far reaches the disk first: it is never behind a checkpoint.
        """
        for name in (METRICS, WARNINGS):
            if self.world.leads and (self.folder / name).exists():
                with (self.folder / name).open("rb") as file:
                    os.fsync(file.fileno())
        mine = {"sums": {k: v.cpu() for k, v in self._sums.items()}, "counts": dict(self._counts)}
        return {"processes": distributed.gather(mine, self.world)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores them; the first format had one for all."""
        mine = state["processes"][self.world.rank] if "processes" in state else state
        self._sums, self._counts = dict(mine["sums"]), dict(mine["counts"])


class Meter:
    """A bar with rate and time left on a terminal; now and then a line elsewhere.

    Args:
        console: where to show it; None shows nothing.
        title: what is going on.
        total: how many steps it takes; None where nobody knows.
        unit: what a step is called.
    """

    def __init__(
        self, console: Console | None, title: str, total: int | None, unit: str = "it"
    ) -> None:
        self.console, self.title, self.total, self.unit = console, title, total, unit
        self._bar: Progress | None = None
        self._task: Any = None
        self._begun, self._first, self._told = time.monotonic(), 0, time.monotonic()
        self._text = ""

    def start(self, done: int = 0) -> None:
        """Shows the bar, with what is done already."""
        self._begun, self._first = time.monotonic(), done
        if self.console is None or not self.console.is_terminal:
            return
        columns = (
            TextColumn("{task.description:<22.22}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[text]}", style="dim", markup=False),
        )
        self._bar = Progress(*columns, console=self.console, transient=False)
        self._task = self._bar.add_task(
            self.title, total=self.total, completed=done, rate="", text=""
        )
        self._bar.start()

    def advance(self, done: int) -> None:
        """Tells how far it is."""
        seconds = time.monotonic() - self._begun
        rate = (done - self._first) / max(seconds, 1e-9)
        shown = (
            f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/{self.unit}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=shown, text=self._text)
        elif self.console is not None and (
            time.monotonic() - self._told > 15 or done == self.total
        ):
            self._told = time.monotonic()
            line = f"{self.title}: {done}, {shown}"
            if self.total is not None:
                left = max(0, self.total - done) / max(rate, 1e-9)
                line = f"{self.title}: {done}/{self.total}, {shown}, {left:.0f} s left {self._text}"
            self.console.print(line.rstrip(), highlight=False, soft_wrap=True)

    def say(self, row: Mapping[str, float]) -> None:
        """Shows the losses of the last line of metrics."""
        losses = [(name[5:], value) for name, value in row.items() if name.startswith("loss/")]
        self._text = " ".join(f"{name[:12]} {value:.3f}" for name, value in losses[:2])

    def tell(self, text: str) -> None:
        """Shows a line of its own, above the bar."""
        if self.console is not None:
            self.console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Takes the bar down."""
        if self._bar is not None:
            self._bar.stop()


def _append(path: Path, row: Mapping[str, float | int | str]) -> None:
    checkpoint.append(path, json.dumps(row) + "\n")


def _truncate(path: Path, iteration: int) -> None:
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row["iteration"] <= iteration]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    checkpoint.write_whole(path, lambda file: file.write(text.encode()))


def _rows_of(path: Path) -> list[dict[str, float]]:
    return read_rows(path) if path.exists() else []


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
