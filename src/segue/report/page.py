"""One self-contained page that shows what a run has learnt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from segue.errors import SegueError
from segue.report.blocks import Charts, Colour, Section, Source
from segue.report.curves import Chart, chart
from segue.report.iou_table import TEMPLATES, Cell, Table
from segue.work_dir import Point

PER_PAGE = 4  # panels that are seen at once


@dataclass(frozen=True)
class Panel:
    """Pictures of one scene side by side; a slider wipes between the last two.

    Args:
        name: what identifies the scene.
        pictures: caption to uint8 [H, W, 3] RGB, in the order shown: image, ground truth, the
            prediction before and the one after.
        note: what there is to say of it.
    """

    name: str
    pictures: dict[str, NDArray[np.uint8]]
    note: str = ""


@dataclass(frozen=True)
class Headline:
    """A number at the head of the page.

    Args:
        title: whose it is.
        value: what is written large.
        spread: what stands behind it in small.
        change: its difference from the first; None for the first itself.
    """

    title: str
    value: str
    spread: str = ""
    change: Cell | None = None


@dataclass(frozen=True)
class Scene:
    """A panel as the template wants it."""

    name: str
    note: str
    pictures: tuple[Source, ...]


def write_page(
    path: str | Path,
    *,
    title: str,
    lead: str,
    table: Table | None,
    panels: Sequence[Panel],
    legend: Sequence[tuple[str, Colour]],
    facts: Mapping[str, str],
    rule: str = "",
    wiped: tuple[int, int] = (-2, -1),
    headlines: Sequence[Headline] = (),
    measure: str = "",
    curves: Mapping[str, Sequence[Point]] | None = None,
    curve_axes: tuple[str, str] = ("iteration", "loss"),
    sections: Sequence[Section] = (),
    notes: Sequence[str] = (),
) -> None:
    """Writes a page that loads nothing from elsewhere; it appears whole or not at all.

    Args:
        path: the file to write; its folder is made if absent.
        title: the heading.
        lead: one or two sentences on what is compared.
        table: the IoU per class; None where no label is known.
        panels: the scenes to show.
        legend: class names with the colours that the panels use.
        facts: what was run, name to value: recipe, seeds, iterations, versions, time.
        rule: how the scenes were chosen, in a sentence.
        wiped: which two of a panel's pictures the slider begins with.
        headlines: the numbers at its head where there is no table.
        measure: what these numbers are.
        curves: name to (x, y) points in the order of x.
        curve_axes: what x and y of the curves are.
        sections: what else there is, after the table.
        notes: what a reader has to know before believing the numbers.

    Raises:
        SegueError: the file cannot be written.
    """
    drawn = chart(curves, axes=curve_axes) if curves else None
    text = TEMPLATES.get_template("page.html").render(
        title=title,
        lead=lead,
        table=table,
        table_html=Markup(table.to_html(dict(legend))) if table else "",
        headlines=of_table(table) if table else headlines,
        measure=f"{table.average.name}, per cent" if table else measure,
        panels=[_scene(panel) for panel in panels],
        per_page=PER_PAGE,
        rule=rule,
        wiped=wiped,
        legend=legend,
        facts=facts,
        sections=[*_curves(drawn), *sections],
        notes=notes,
    )
    _write_whole(Path(path), text)


def of_table(table: Table) -> list[Headline]:
    """Every method's mean, and its difference from the first."""
    found: list[Headline] = []
    for column, cell in zip(table.columns, table.average.cells, strict=True):
        if column.is_difference:
            one = found.pop()
            found.append(Headline(one.title, one.value, one.spread, cell))
        elif not column.is_paper:
            found.append(Headline(column.title, cell.value_text, cell.spread_text))
    return found


def _curves(drawn: Chart | None) -> list[Section]:
    if drawn is None:
        return []
    charts = Charts(((drawn.y_label, drawn),))
    return [Section("curves", "Learning curves", "", [charts])]


def _scene(panel: Panel) -> Scene:
    pictures = tuple(Source.of(caption, pixels) for caption, pixels in panel.pictures.items())
    return Scene(panel.name, panel.note, pictures)


def _write_whole(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fix = "free some space or choose another file"
        raise SegueError(f"page not written: {reason}", where=path, fix=fix) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
