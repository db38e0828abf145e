"""The table of IoU per class, for the terminal, a page, Markdown and LaTeX."""

from __future__ import annotations

import math
import re
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import rich.box
import rich.table
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.text import Text

from segue.errors import SegueError
from segue.inference.evaluation import Evaluation
from segue.recipe.recipe import Paper

TEMPLATES = Environment(
    loader=PackageLoader("segue.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

_ABSENT = "\u2013 absent from labels and predictions"
_UNREPORTED = f"{_ABSENT}, or not reported"
_PARTLY = "* absent in some of the seeds, which are left out"
_PAPER = "paper: as reported, of its own data, hardware and code"
_FULL_TINT = 10.0  # a difference of so many points gets the deepest colour
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u2013": "--",
    "\u2212": "$-$",
    "\u00b1": r"$\pm$",
}


@dataclass(frozen=True)
class Reported:
    """What a paper reports for a method, in per cent.

    Args:
        classes: class name to IoU; those without one are left out.
        mean: of the protocol that the table averages; None where it reports none.
    """

    classes: Mapping[str, float]
    mean: float | None = None


@dataclass(frozen=True)
class Row:
    """What one method has reached.

    Args:
        name: the method.
        iou: class name to one IoU per seed, each 0 to 1, or NaN where the class is absent. All rows
            list the same seeds in the same order.
        miou: the protocol's mean IoU per seed, 0 to 1.
        reported: what a paper reports for the method; None shows no column for it.
    """

    name: str
    iou: dict[str, list[float]]
    miou: list[float]
    reported: Reported | None = None

    def reported_of(self, name: str) -> float | None:
        """A class's reported IoU, NaN where it is left out; None without any report."""
        return None if self.reported is None else self.reported.classes.get(name, math.nan)

    @property
    def reported_mean(self) -> float | None:
        """The reported mean, NaN where there is none; None without any report."""
        if self.reported is None:
            return None
        return math.nan if self.reported.mean is None else self.reported.mean


@dataclass(frozen=True)
class Cell:
    """A mean in per cent with its spread over the seeds.

    Args:
        mean: per cent, or NaN where no seed has a value.
        spread: sample standard deviation in per cent; None with fewer than two values.
        signed: whether this is a difference.
        partly: whether some seeds, not all, had no value.
    """

    mean: float
    spread: float | None = None
    signed: bool = False
    partly: bool = False

    @property
    def absent(self) -> bool:
        """Whether there is nothing to show."""
        return math.isnan(self.mean)

    @property
    def sign(self) -> int:
        """Which way a difference goes once rounded to what is shown: -1, 0 or 1."""
        shown = 0.0 if self.absent or not self.signed else round(self.mean, 1)
        return (shown > 0) - (shown < 0)

    @property
    def tint(self) -> int:
        """How deeply a difference is coloured, 0 to 100."""
        return round(100 * min(abs(self.mean) / _FULL_TINT, 1.0)) if self.sign else 0

    @property
    def value_text(self) -> str:
        """The mean with one decimal, as 47.1 or, for a difference, +1.2."""
        if self.absent:
            return "\u2013"
        number = f"{abs(self.mean):.1f}" if self.signed else f"{self.mean:.1f}"
        return {-1: "\u2212", 0: "", 1: "+"}[self.sign] + number

    @property
    def spread_text(self) -> str:
        """The spread as " ± 0.8", or nothing."""
        spread = "" if self.spread is None else f" \u00b1 {self.spread:.1f}"
        return spread + ("*" if self.partly else "")

    @property
    def text(self) -> str:
        """Mean and spread, as 47.1 ± 0.8."""
        return self.value_text + self.spread_text


@dataclass(frozen=True)
class Column:
    """A column: a method, its difference from the first, or what a paper reports for it."""

    title: str
    is_difference: bool = False
    is_paper: bool = False


@dataclass(frozen=True)
class Line:
    """A class, or the mean over classes, with one cell per column."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Methods as columns, classes as lines, the protocol's mean below.

    Args:
        columns: each method, after each but the first its difference from the first, and before
            it what a paper reports for it.
        lines: one per class.
        average: the mean over the protocol's classes.
        caption: what the numbers are.
        against: what the differences are.
        paper: what the columns of papers are.
        notes: what the signs in the cells mean.
    """

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    average: Line
    caption: str
    against: str = ""
    paper: str = ""
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What a reader has to be told below the numbers, a sentence each."""
        return tuple(filter(None, (self.caption, self.against, self.paper, *self.notes)))

    def to_rich(self, width: int = 80) -> rich.table.Table:
        """For the terminal; what does not fit into `width` is left out.

        Columns of papers go first, for these can be read elsewhere, then differences.
        """
        measure = Console(width=10_000).measure
        for papers, differences in ((True, True), (False, True)):
            table = _rich(self, papers=papers, differences=differences)
            if measure(table).minimum <= width:
                return table
        return _rich(self, papers=False, differences=False)

    def to_markdown(self) -> str:
        """As a pipe table, with caption and notes below."""
        head = ["class", *(column.title for column in self.columns)]
        lines = [_pipes(head), "| :-- " + "| --: " * len(self.columns) + "|"]
        lines += [_pipes([line.name, *(c.text for c in line.cells)]) for line in self.lines]
        average = [self.average.name, *(cell.text for cell in self.average.cells)]
        lines.append(_pipes(average, bold=True))
        return "\n".join([*lines, "", "  \n".join(map(_markdown, self.words)), ""])

    def to_latex(self) -> str:
        """As a `tabular` with the rules of the booktabs package."""

        def row(texts: Sequence[str]) -> str:
            return " & ".join(_latex(text) for text in texts) + r" \\"

        return "\n".join(
            [
                *(f"% {text}" for text in self.words),
                r"\begin{tabular}{l" + "r" * len(self.columns) + "}",
                r"\toprule",
                row(["class", *(column.title for column in self.columns)]),
                r"\midrule",
                *(row([line.name, *(c.text for c in line.cells)]) for line in self.lines),
                r"\midrule",
                row([self.average.name, *(cell.text for cell in self.average.cells)]),
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )

    def to_html(self, colours: Mapping[str, tuple[int, int, int]] | None = None) -> str:
        """As a `<table>` that the page's script sorts, with a swatch per class of known colour."""
        return TEMPLATES.get_template("table.html").render(table=self, colours=colours or {})


def iou_table(rows: Sequence[Row], *, protocol: str, classes: Sequence[str]) -> Table:
    """Compares methods class by class, in per cent, each against the first.

    Several seeds give mean ± sample standard deviation; a difference is taken seed by seed, so
    its spread is that of the paired differences. NaN is left out of a mean.

    Args:
        rows: the methods; differences are taken from the first.
        protocol: the name of the protocol that `Row.miou` averages over.
        classes: the classes to show, in order.

    Raises:
        SegueError: there are no rows, or rows differ in their number of seeds.

    Example:
        >>> before = Row("source only", {"road": [0.70, 0.72], "car": [0.50, 0.54]}, [0.60, 0.63])
        >>> after = Row("aligned", {"road": [0.75, 0.75], "car": [0.49, 0.52]}, [0.62, 0.64])
        >>> table = iou_table([before, after], protocol="2", classes=["road", "car"])
        >>> [cell.text for cell in table.average.cells]
        ['61.5 ± 2.1', '63.0 ± 1.4', '+1.5 ± 0.7']
    """
    if not rows:
        raise SegueError("no results to compare", fix="give at least one evaluated run")
    for row in rows:
        if len(row.miou) != len(rows[0].miou):
            counts = f"{len(row.miou)} seeds against {len(rows[0].miou)}"
            raise SegueError(counts, where=row.name, fix="compare runs over the same seeds")
    lines = tuple(
        Line(
            name,
            _cells([row.iou[name] for row in rows], [row.reported_of(name) for row in rows]),
        )
        for name in classes
    )
    means = _cells([row.miou for row in rows], [row.reported_mean for row in rows])
    average = Line(f"mIoU (protocol {protocol})", means)
    columns, cells = _columns(rows), [cell for line in (*lines, average) for cell in line.cells]
    papers = [column.is_paper for column in columns] * (len(lines) + 1)
    unreported = any(cell.absent and of for cell, of in zip(cells, papers, strict=True))
    notes = [_UNREPORTED if unreported else _ABSENT] if any(cell.absent for cell in cells) else []
    notes += [_PARTLY] if any(cell.partly for cell in cells) else []
    return Table(
        columns,
        lines,
        average,
        _caption(len(rows[0].miou)),
        _against(rows),
        _PAPER if any(papers) else "",
        tuple(notes),
    )


def _columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    columns = []
    for place, row in enumerate(rows):
        if row.reported is not None:
            title = "paper" if len(rows) == 1 else f"paper, {row.name}"
            columns.append(Column(title, is_paper=True))
        columns.append(Column(row.name))
        if place:
            difference = "difference" if len(rows) == 2 else f"difference, {row.name}"
            columns.append(Column(difference, is_difference=True))
    return tuple(columns)


def _caption(seeds: int) -> str:
    over = f", mean \u00b1 sample standard deviation over {seeds} seeds" if seeds > 1 else ""
    return f"IoU in %{over}"


def _against(rows: Sequence[Row]) -> str:
    paired = ", taken seed by seed" if len(rows[0].miou) > 1 else ""
    return f"Difference from {rows[0].name}{paired}" if len(rows) > 1 else ""


def _cells(
    methods: Sequence[Sequence[float]], reported: Sequence[float | None]
) -> tuple[Cell, ...]:
    first, cells = methods[0], []
    for place, (values, paper) in enumerate(zip(methods, reported, strict=True)):
        if paper is not None:
            cells.append(Cell(paper))
        cells.append(cell(values))
        if place:
            differences = [value - base for value, base in zip(values, first, strict=True)]
            cells.append(cell(differences, signed=True))
    return tuple(cells)


def cell(values: Sequence[float], *, signed: bool = False) -> Cell:
    """Mean and sample standard deviation of one value a seed, given as fractions.

    Example:
        >>> cell([0.02, 0.04], signed=True).text
        '+3.0 ± 1.4'
    """
    present = [100 * value for value in values if not math.isnan(value)]
    if not present:
        return Cell(math.nan, signed=signed)
    spread = statistics.stdev(present) if len(present) > 1 else None
    return Cell(statistics.fmean(present), spread, signed, partly=len(present) < len(values))


def _rich(table: Table, *, papers: bool, differences: bool) -> rich.table.Table:
    shown = [
        index
        for index, column in enumerate(table.columns)
        if (differences or not column.is_difference) and (papers or not column.is_paper)
    ]
    against, paper = table.against if differences else "", table.paper if papers else ""
    words = [table.caption, against, paper, *table.notes]
    result = rich.table.Table(
        box=rich.box.SIMPLE,
        show_edge=False,
        show_footer=True,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        header_style="bold",
        footer_style="bold",
        caption=Text("\n" + "\n".join(filter(None, words)), style="dim"),
        caption_justify="left",
    )
    result.add_column("class", Text(table.average.name), vertical="bottom")
    columns = []
    for index in shown:
        cells = [line.cells[index] for line in (*table.lines, table.average)]
        title = textwrap.wrap(table.columns[index].title, 12, break_long_words=False)
        *above, average = _rich_cells(cells, width=max(map(len, title)))
        columns.append(above)
        head = Text("\n".join(title), justify="right")
        result.add_column(head, average, no_wrap=True, vertical="bottom")
    for index, line in enumerate(table.lines):
        result.add_row(Text(line.name), *(column[index] for column in columns))
    return result


def _rich_cells(cells: Sequence[Cell], width: int) -> list[Text]:
    """One column's texts, its values below each other whatever stands behind them."""
    room = max(len(cell.spread_text) for cell in cells)
    before = max(max(len(cell.value_text) for cell in cells), width - room)
    colours = {-1: "red", 0: "", 1: "green"}
    return [
        Text.assemble(
            (cell.value_text.rjust(before), "dim" if cell.absent else colours[cell.sign]),
            (cell.spread_text.ljust(room), "dim not bold"),
        )
        for cell in cells
    ]


def _pipes(texts: Sequence[str], *, bold: bool = False) -> str:
    mark = "**" if bold else ""
    return "| " + " | ".join(f"{mark}{_markdown(text)}{mark}" for text in texts) + " |"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|<*_`\[\]])", r"\\\1", " ".join(text.split()))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def row_of(name: str, results: list[Evaluation], protocol: str, paper: Paper | None = None) -> Row:
    """One method's line in a table, from its results over seeds."""
    iou = {label: [result.iou[label] for result in results] for label in results[0].classes}
    reported = None
    if paper is not None and paper.classes:
        reported = Reported(paper.classes, paper.reported.get(protocol))
    return Row(name, iou, [result.miou[protocol] for result in results], reported)


def compare(
    results: Mapping[str, list[Evaluation]], papers: Mapping[str, Paper | None] | None = None
) -> Table:
    """Methods side by side over the classes of the headline protocol, results by seed.

    Args:
        results: by method.
        papers: where a method is from; what is reported there by class gets a column.
    """
    first = next(iter(results.values()))[0]
    headline = next(iter(first.miou))
    scored = [first.classes[index] for index in first.protocols[headline]]
    known = papers or {}
    rows = [
        row_of(method, of_seeds, headline, known.get(method))
        for method, of_seeds in results.items()
    ]
    return iou_table(rows, protocol=headline, classes=scored)
