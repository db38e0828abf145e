"""Progress of what takes long, on a terminal and in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
