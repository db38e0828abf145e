"""Pictures in rows and columns with headings, and axes that name classes with their colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase, SubFigure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from segue.label_space import LabelSpace

Picture = NDArray[np.uint8] | NDArray[np.float32]
EDGE = "#888888"
GREY = "#777777"


def tile(
    figure: FigureBase,
    pictures: Sequence[Sequence[Picture | None]],
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    colormap: str = "inferno",
    limits: tuple[float, float] = (0.0, 1.0),
) -> AxesImage | None:
    """Draws pictures side by side; returns the last that is drawn by the colour map.

    Args:
        figure: the figure or a part of it.
        pictures: rows of RGB [H, W, 3] uint8 or of values [H, W]; None leaves a gap.
        columns: headings.
        rows: what stands left of each row.
        colormap: for values.
        limits: the values at its ends.
    """
    table = figure.subplots(len(pictures), len(pictures[0]), squeeze=False)
    mapped = None
    for line, row in zip(table, pictures, strict=True):
        for axes, picture in zip(line, row, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if picture is None:
                continue
            if picture.ndim == 3:
                axes.imshow(picture)
            else:
                low, high = limits
                mapped = axes.imshow(picture, cmap=colormap, vmin=low, vmax=high)
    for axes, text in zip(table[0], columns, strict=False):
        axes.set_title(text, pad=4)
    for axes, text in zip(table[:, 0], rows, strict=False):
        axes.set_ylabel(text)
    return mapped


def halves(figure: Figure, upper: float, lower: float) -> tuple[SubFigure, SubFigure]:
    """The parts of a figure above and below, so many inches high."""
    above, below = figure.subfigures(2, 1, height_ratios=[upper, lower], squeeze=False)[:, 0]
    return above, below


def height_of(picture: Picture, columns: int, width: float) -> float:
    """Inches that a row of such pictures needs where so many share the width."""
    height: int = picture.shape[0]
    return width / columns * height / int(picture.shape[1])


def unit(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour as matplotlib takes it.

    Example:
        >>> unit((255, 0, 51))
        (1.0, 0.0, 0.2)
    """
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue


def name_classes(axes: Axes, space: LabelSpace, members: Sequence[int]) -> None:
    """Rows for classes from top to bottom, each name with the colour of label maps before it."""
    axes.set_yticks(range(len(members)), [space.classes[one] for one in members])
    axes.set_ylim(len(members) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=14)
    for place, member in enumerate(members):
        axes.plot(
            0, place, "s", transform=_left_of(axes), color=unit(space.colours[member]),
            markersize=8, markeredgecolor=EDGE, markeredgewidth=0.5, clip_on=False,
        )  # fmt: skip


def _left_of(axes: Axes):  # type: ignore[no-untyped-def]  # noqa: ANN202
    from matplotlib.transforms import ScaledTranslation

    whole = axes.get_figure(root=True)
    assert isinstance(whole, Figure)
    return axes.get_yaxis_transform() + ScaledTranslation(-9 / 72, 0, whole.dpi_scale_trans)
