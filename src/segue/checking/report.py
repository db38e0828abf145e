"""What a look at a recipe has found, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from segue.datasets.inspection import Inspection
from segue.errors import SegueError
from segue.label_space import LabelSpace

MOST_SHOWN = 50  # problems on screen

Rows = tuple[tuple[str, str], ...]


@dataclass
class Report:
    """What a look at a recipe has found.

    Args:
        space: the recipe's classes.
        sections: titles with rows of what and how.
        histograms: what the labels of each labelled set hold, by title.
        warnings: what may be meant so, one line each.
        problems: what must be mended before it can run, one line each.

    Example:
        >>> from segue.label_space import CITYSCAPES
        >>> Report(CITYSCAPES, problems=["data.source: no such folder"]).verdict
        '1 problem'
    """

    space: LabelSpace
    sections: list[tuple[str, Rows]] = field(default_factory=list)
    histograms: dict[str, Inspection] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The last line."""
        count = len(self.problems)
        return f"{count} problem{'s' if count > 1 else ''}" if count else "ready"

    def to_rich(self) -> RenderableType:
        """All of it for a rich console; `problems` holds the lines unwrapped."""
        parts: list[RenderableType] = []
        for title, rows in self.sections:
            parts += [Text(title, "bold"), Padding(_grid(rows), (0, 0, 1, 2))]
        if self.histograms:
            parts += [self._classes(), Text()]
        told = [("warning", line) for line in self.warnings]
        told += [("problem", line) for line in self.problems[:MOST_SHOWN]]
        if len(self.problems) > MOST_SHOWN:
            told.append(("", f"and {len(self.problems) - MOST_SHOWN} more"))
        if told:
            parts += [_grid(told), Text()]
        parts.append(Text(self.verdict, "bold red" if self.problems else "bold green"))
        return Group(*parts)

    def _classes(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("labels, % of pixels / of images", no_wrap=True)
        for title in self.histograms:
            table.add_column(title, justify="right")
        for index, name in enumerate(self.space.classes):
            cells = [
                f"{share(one.pixels[index], one.pixels.sum()):6.2f} "
                f"{share(one.images[index], one.inspected):5.0f}"
                for one in self.histograms.values()
            ]
            table.add_row(Text(name), *cells)
        return table


def _grid(rows: Rows | list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=10)
    grid.add_column(overflow="fold")
    for key, value in rows:
        grid.add_row(Text(key, "dim"), Text(value))
    return grid


def share(part: float, whole: float) -> float:
    """A part in percent, 0 of nothing.

    Example:
        >>> share(1, 4), share(0, 0)
        (25.0, 0.0)
    """
    return 100 * float(part) / float(whole) if whole else 0.0


def told(where: str, error: SegueError | str) -> str:
    """The error's line, led by where in the recipe."""
    return str(error) if str(error).startswith(where) else f"{where}: {error}"
