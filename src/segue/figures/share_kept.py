"""A picture of how much of each class a pseudo-label rule keeps, and how right it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BAR, PALE, INK, DOT = "#3b6ea8", "#eceff3", "#333333", "#d1495b"


def draw(
    kept: Mapping[str, float | None],
    colours: Sequence[tuple[int, int, int]],
    *,
    total: float | None,
    title: str,
    precision: Mapping[str, float | None] | None = None,
) -> Figure:
    """A bar for each class, 0 to 100 %, with the precision of what is kept as a dot.

    Args:
        kept: share kept by class, 0 to 1; None where the class was never predicted.
        colours: of the classes, RGB, as label maps show them.
        total: share kept of all pixels.
        title: the heading.
        precision: share of the kept pixels that is right by class, where it was measured.
    """
    names = list(kept)
    figure = Figure(figsize=(7.2, 1.5 + 0.27 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, colour) in enumerate(zip(names, colours, strict=True)):
        _bar(axes, place, kept[name], tuple(channel / 255 for channel in colour))
    found = {
        place: 100 * value
        for place, name in enumerate(names)
        if precision is not None and (value := precision[name]) is not None
    }
    if found:
        axes.plot(
            list(found.values()), list(found), "D", color=DOT, markersize=5,
            markeredgecolor="white",
            label="precision of what is kept", clip_on=False, zorder=4,
        )  # fmt: skip
    if total is not None:
        axes.axvline(
            100 * total, color=INK, linestyle="--", linewidth=1, zorder=3,
            label=f"kept of all pixels, {100 * total:.1f} %",
        )  # fmt: skip
    _finish(axes, names)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    return figure


def _bar(axes: Axes, place: int, share: float | None, colour: tuple[float, ...]) -> None:
    axes.barh(place, 100, height=0.68, color=PALE, zorder=1)
    axes.barh(place, 100 * (share or 0), height=0.68, color=BAR, zorder=2)
    axes.plot(
        -1.6, place, "s", color=colour, markersize=8, markeredgecolor="#999999",
        markeredgewidth=0.5, clip_on=False,
    )  # fmt: skip
    text = "never predicted" if share is None else f"{100 * share:.1f}"
    axes.annotate(
        text, (102, place), va="center", fontsize=8.5,
        color=INK if share is not None else "#999999",
        annotation_clip=False,
    )  # fmt: skip


def _finish(axes: Axes, names: Sequence[str]) -> None:
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6), xlabel="kept, % of pixels predicted")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.tick_params(axis="y", length=0, pad=12)
    axes.tick_params(axis="x", labelsize=9, color="#bbbbbb")
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
