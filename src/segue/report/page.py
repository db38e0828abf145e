"""One self-contained page that shows what a run has learnt."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from segue.errors import SegueError
from segue.report.curves import Point, chart
from segue.report.tables import TEMPLATES, Table

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Panel:
    """Pictures of one scene side by side; a slider wipes between the last two.

    Args:
        name: what identifies the scene.
        pictures: caption to uint8 [H, W, 3] RGB, in the order shown: image, ground truth, the
            prediction before and the one after.
    """

    name: str
    pictures: dict[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class _Picture:
    """A picture as the template wants it."""

    caption: str
    source: str
    width: int
    height: int


def write_page(
    path: str | Path,
    *,
    title: str,
    lead: str,
    table: Table,
    panels: Sequence[Panel],
    legend: Sequence[tuple[str, Colour]],
    facts: Mapping[str, str],
    curves: Mapping[str, Sequence[Point]] | None = None,
    curve_axes: tuple[str, str] = ("iteration", "loss"),
    notes: Sequence[str] = (),
) -> None:
    """Writes a page that loads nothing from elsewhere; it appears whole or not at all.

    Args:
        path: the file to write; its folder is made if absent.
        title: the heading.
        lead: one or two sentences on what is compared.
        table: the IoU per class.
        panels: the scenes to show.
        legend: class names with the colours that the panels use.
        facts: what was run, name to value: recipe, seeds, iterations, versions, time.
        curves: name to (x, y) points in the order of x.
        curve_axes: what x and y of the curves are.
        notes: what a reader has to know before believing the numbers.

    Raises:
        SegueError: the file cannot be written.
    """
    text = TEMPLATES.get_template("page.html").render(
        title=title,
        lead=lead,
        table=table,
        table_html=Markup(table.to_html(dict(legend))),
        panels=[(panel.name, _pictures(panel)) for panel in panels],
        legend=legend,
        facts=facts,
        chart=chart(curves, axes=curve_axes) if curves else None,
        notes=notes,
    )
    _write_whole(Path(path), text)


def _pictures(panel: Panel) -> list[_Picture]:
    return [
        _Picture(caption, data_uri(pixels), width=pixels.shape[1], height=pixels.shape[0])
        for caption, pixels in panel.pictures.items()
    ]


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Packs a uint8 [H, W, 3] RGB picture into a URI, exactly where it has up to 256 colours.

    Label maps become palette PNGs, photographs JPEGs of quality 90.

    Example:
        >>> data_uri(np.zeros((4, 8, 3), np.uint8))[:22]
        'data:image/png;base64,'
    """
    red, green, blue = np.moveaxis(pixels.astype(np.uint32), -1, 0)
    colours, index = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    file = io.BytesIO()
    if len(colours) <= 256:
        picture = Image.fromarray(index.reshape(pixels.shape[:2]).astype(np.uint8))
        shifts = np.array([16, 8, 0], np.uint32)
        picture.putpalette((colours[:, None] >> shifts & 255).astype(np.uint8).tobytes())
        picture.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        # Not `optimize`: Pillow's buffer for it is too small for very noisy pictures.
        Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _write_whole(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fix = "free some space or choose another file"
        raise SegueError(f"page not written: {reason}", where=path, fix=fix) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
