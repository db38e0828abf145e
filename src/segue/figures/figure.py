"""What every analysis leaves: a figure as PNG and SVG, and its numbers as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from segue.errors import SegueError
from segue.storage.whole import write_whole

# Okabe and Ito's colours, the darkest first; yellow last, for it is faint on paper.
OKABE_ITO = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442",
)  # fmt: skip
MARKERS = "osD^vPX*"
# Figures are 6 inches wide and are printed 80 mm wide: text of 11 points is then one of 6.
WIDTH = 6.0
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
DIGITS = 6  # of a number in a CSV file


def leave(
    folder: Path, name: str, figure: Figure, rows: Sequence[Mapping[str, object]]
) -> tuple[Path, ...]:
    """Writes `name`.png, `name`.svg and `name`.csv, and returns these paths.

    Equal figures and rows give equal files.

    Args:
        folder: made where it is missing; files of the same names are replaced.
        name: of the files.
        figure: what the numbers look like.
        rows: flat; their keys, the same in each, head the columns. None is an empty cell.

    Raises:
        SegueError: the folder cannot be written to, or there are no rows.
    """
    if not rows:
        raise SegueError("there is nothing to show", where=name, fix="look at other data")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    paths = tuple(folder / f"{name}.{kind}" for kind in ("png", "svg", "csv"))
    try:
        with mpl.rc_context(STYLE):
            save(figure, folder / name)
        write_whole(paths[2], lambda file: file.write(text.getvalue().encode()))
    except (FileExistsError, NotADirectoryError) as error:
        raise SegueError("is no folder", where=folder, fix="give another with -o") from error
    return paths


def tell(paths: Sequence[Path], console: Console) -> None:
    """Says where files were left."""
    told = "written: " + ", ".join(str(path) for path in paths)
    console.print(told, style="dim", highlight=False, soft_wrap=True)


def _cell(value: object) -> object:
    if isinstance(value, float):
        # Adding 0 makes a negative zero a plain one.
        return "" if value != value else round(value, DIGITS) + 0.0
    return "" if value is None else value


def save(figure: Figure, stem: Path) -> None:
    """Writes `stem`.png and `stem`.svg; the same figure gives the same bytes."""
    # Names may hold what matplotlib takes for formulas, those of ticks made while it draws too.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    # Otherwise the names inside an SVG are drawn at random, and it tells the day.
    with mpl.rc_context({"svg.hashsalt": "segue", "text.parse_math": False}):
        for kind, dropped in (("png", "Software"), ("svg", "Date")):
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=160, metadata={dropped: None})
            whole = data.getvalue()
            write_whole(stem.with_suffix(f".{kind}"), lambda file, whole=whole: file.write(whole))  # type: ignore[misc]
