"""What a page's sections are made of: tables, matrices, bars, galleries, charts.

Each is plain values and a template of its kind; the page puts them below each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from segue.analysis.confusion import LEAST
from segue.report.curves import Chart
from segue.report.iou_table import TEMPLATES
from segue.report.pictures import Picture, data_uri

Colour = tuple[int, int, int]
Lines = tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Args:
        title: what it shows.
        head: a heading for each column.
        rows: cells of one or more lines each, the first cell naming the row.
        prose: whether cells are words, and not numbers to be compared.
    """

    template: ClassVar[str] = "grid.html"
    title: str
    head: Lines
    rows: tuple[tuple[Lines, ...], ...]
    prose: bool = False


@dataclass(frozen=True)
class Shade:
    """A cell of a matrix: its colours, what stands in it, and what it is in words."""

    ground: str
    ink: str
    text: str
    told: str


@dataclass(frozen=True)
class Matrix:
    """Shares by class and class, dark to bright in log scale.

    Args:
        title: whose they are.
        classes: name and colour.
        shares: [C, C], rows adding up to 1; NaN in rows that are empty.
    """

    template: ClassVar[str] = "matrix.html"
    title: str
    classes: tuple[tuple[str, Colour], ...]
    shares: NDArray[np.float64]

    @property
    def rows(self) -> list[list[Shade | None]]:
        """The cells, None where there is nothing."""
        names = [name for name, _ in self.classes]
        return [
            [
                _shade(float(share), label, predicted)
                for predicted, share in zip(names, line, strict=True)
            ]
            for label, line in zip(names, self.shares, strict=True)
        ]

    @property
    def scale(self) -> list[tuple[str, str]]:
        """Colours of the scale with what they stand for."""
        powers = np.logspace(np.log10(LEAST), 0, 5)
        return [(_ground(float(share))[0], f"{100 * share:g} %") for share in powers]


@dataclass(frozen=True)
class Bar:
    """A share of 0 to 1 with its text, and of that, what is right; None where there is none."""

    share: float | None
    right: float | None = None

    @property
    def solid(self) -> float:
        """How much of the bar is drawn in full: what is right, or all where that is not known."""
        return (self.share or 0.0) * (1.0 if self.right is None else self.right)


@dataclass(frozen=True)
class Bars:
    """Shares as bars, a row for each class and a column for each round.

    Args:
        title: whose they are.
        head: a heading for each column.
        rows: class, its colour (None for all together), and a bar for each column.
    """

    template: ClassVar[str] = "bars.html"
    title: str
    head: Lines
    rows: tuple[tuple[str, Colour | None, tuple[Bar, ...]], ...]


@dataclass(frozen=True)
class Source:
    """A picture as a page holds it."""

    caption: str
    uri: str
    width: int
    height: int

    @classmethod
    def of(cls, caption: str, pixels: Picture) -> Source:
        """Of uint8 [H, W, 3] RGB."""
        return cls(caption, data_uri(pixels), width=pixels.shape[1], height=pixels.shape[0])


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures, each row of one scene.

    Args:
        title: whose they are; empty where the section says it.
        rows: scene, and its pictures.
    """

    template: ClassVar[str] = "gallery.html"
    title: str
    rows: tuple[tuple[str, tuple[Source, ...]], ...]


@dataclass(frozen=True)
class Charts:
    """Charts of the same curves side by side, with one legend."""

    template: ClassVar[str] = "charts.html"
    charts: tuple[tuple[str, Chart], ...]

    @property
    def legend(self) -> dict[str, int]:
        """Name and colour of every curve."""
        return {one.name: one.place for _, chart in self.charts for one in chart.series}


@dataclass(frozen=True)
class Words:
    """Sentences, one below the other."""

    template: ClassVar[str] = "sentences.html"
    title: str
    lines: Lines


Block = Grid | Matrix | Bars | Gallery | Charts | Words


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading.

    Args:
        name: of its anchor, and what the list of contents links to.
        title: the heading.
        text: what a reader has to know to read it.
        blocks: what it shows.
        abreast: whether blocks stand side by side where there is room.
    """

    name: str
    title: str
    text: str
    blocks: Sequence[Block]
    abreast: bool = False

    @property
    def html(self) -> list[Markup]:
        """Each block as HTML, every text of it escaped."""
        return [
            Markup(TEMPLATES.get_template(block.template).render(block=block))
            for block in self.blocks
        ]


def _shade(share: float, label: str, predicted: str) -> Shade | None:
    if not share > 0:
        return None
    percent = 100 * share
    tenths = f"{percent:.1f}"
    # Rounded first: 0.97 is 1, and not what stands behind its point.
    text = f"{percent:.0f}" if not tenths.startswith("0") else tenths[1:] if tenths != "0.0" else ""
    told = f"{percent:.2g} % of {label} is predicted as {predicted}"
    return Shade(*_ground(share), text, told)


def _ground(share: float) -> tuple[str, str]:
    """The colour of a share, and the one of black and white that is read better on it."""
    red, green, blue, _ = mpl.colormaps["viridis"](LogNorm(LEAST, 1, clip=True)(share))
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (red, green, blue)
    ]
    luminance = sum(part * of for part, of in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    # 21 : 1 is between white and black; equally far from both is its root.
    ink = "#000000" if (luminance + 0.05) / 0.05 > 21**0.5 else "#ffffff"
    channels = (round(255 * value) for value in (red, green, blue))
    return "#" + "".join(f"{channel:02x}" for channel in channels), ink
