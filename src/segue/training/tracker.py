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
from torch import Tensor

from segue.runtime import processes as distributed
from segue.runtime.processes import World
from segue.runtime.progress import Meter
from segue.storage import whole
from segue.storage.whole import read_rows
from segue.training.monitor import Watch

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


def _append(path: Path, row: Mapping[str, float | int | str]) -> None:
    whole.append(path, json.dumps(row) + "\n")


def _truncate(path: Path, iteration: int) -> None:
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row["iteration"] <= iteration]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    whole.write_whole(path, lambda file: file.write(text.encode()))


def _rows_of(path: Path) -> list[dict[str, float]]:
    return read_rows(path) if path.exists() else []
