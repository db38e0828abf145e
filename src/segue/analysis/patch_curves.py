"""Error over iterations for each patch size: what the curves are, mean, and look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

THRESHOLD = 0.20
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Curve:
    """How well the domain is guessed from patches of one size while the classifier learns.

    Args:
        patch: the side in pixels of the square patch, or "whole".
        fraction: the side as a share of the map's height, so that it carries to other sizes.
        iterations: when the error was measured.
        errors: for each run the error at these iterations, 0 to 1; 0.5 is chance.

    Example:
        >>> Curve("32", 0.0625, [100, 200], [[0.5, 0.4], [0.5, 0.5]]).final_error
        0.45
    """

    patch: str
    fraction: float
    iterations: list[int]
    errors: list[list[float]]

    @property
    def final_error(self) -> float:
        """The last error, averaged over the runs."""
        return float(np.mean([run[-1] for run in self.errors]))

    @property
    def label(self) -> str:
        """The patch size in pixels and as a share of the map's height, for people."""
        return "whole map" if self.patch == "whole" else f"{self.patch} px ({self.fraction:.3g} h)"


def suggest(curves: Sequence[Curve], threshold: float = THRESHOLD) -> Curve | None:
    """The largest patch whose final error, averaged over runs, is above the threshold, if any.

    Example:
        >>> curves = [Curve("8", 0.25, [9], [[0.4]]), Curve("whole", 1.0, [9], [[0.1]])]
        >>> suggest(curves).patch
        '8'
        >>> suggest(curves, threshold=0.5) is None
        True
    """
    above = [curve for curve in by_size(curves) if curve.final_error > threshold]
    return above[-1] if above else None


def by_size(curves: Sequence[Curve]) -> list[Curve]:
    """The curves from the smallest patch to the whole map."""
    # A square as high as the map has the fraction of the whole map but shows less of it.
    return sorted(curves, key=lambda curve: (curve.patch == "whole", curve.fraction))


def draw(curves: Sequence[Curve], suggested: Curve, title: str) -> Figure:
    """Error over iterations for each patch size, mean and standard deviation over the runs."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    # Patch sizes are ordered, so one map of rising lightness, cut before it fades into the paper.
    colours = mpl.colormaps["viridis"](np.linspace(0.88, 0.0, len(curves)))
    for number, (curve, colour) in enumerate(zip(curves, colours, strict=True)):
        errors = 100 * np.array(curve.errors)
        mean, spread = errors.mean(axis=0), errors.std(axis=0)
        chosen = curve is suggested
        axes.fill_between(
            curve.iterations, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0
        )
        axes.plot(
            curve.iterations,
            mean,
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markevery=max(1, len(curve.iterations) // 10),
            markersize=5,
            linewidth=3.0 if chosen else 1.5,
            label=f"{curve.label}{', suggested' if chosen else ''}",
        )
    axes.axhline(100 * THRESHOLD, color="black", linestyle="--", linewidth=1)
    axes.axhline(50, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="iteration", ylabel="validation error (%)", title=title)
    axes.set_ylim(0, max(60, axes.get_ylim()[1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for height, text in ((100 * THRESHOLD, f"{THRESHOLD:.0%}"), (50, "chance")):
        axes.annotate(
            text, (1, height), xycoords=("axes fraction", "data"), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8, annotation_clip=False,
        )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    # Outside: curves cover every corner between chance and zero.
    figure.legend(loc="outside right upper", title="patch side (h = map height)", frameon=False)
    return figure
