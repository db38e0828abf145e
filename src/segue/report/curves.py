"""Learning curves, laid out for an inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segue.work_dir import Point

_MOST_POINTS = 160
_SIDE = 1000  # the SVG's own units; the page stretches it to the width there is


@dataclass(frozen=True)
class Tick:
    """A mark on an axis.

    Args:
        at: place along the axis, 0 to 100 per cent from the left or from the bottom.
        text: what stands there.
    """

    at: float
    text: str


@dataclass(frozen=True)
class Series:
    """A curve.

    Args:
        name: what it is of.
        path: the `d` of an SVG path in a square of 1000 units.
        place: among the curves that were asked for, which decides its colour.
    """

    name: str
    path: str
    place: int = 0


@dataclass(frozen=True)
class Chart:
    """Curves with their axes."""

    series: tuple[Series, ...]
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    note: str


def chart(curves: Mapping[str, Sequence[Point]], *, axes: tuple[str, str]) -> Chart | None:
    """Lays out curves on common axes; long ones are drawn as means over consecutive points.

    Args:
        curves: name to (x, y) points in the order of x; points that are not finite are left out.
        axes: what x and y are.

    Returns:
        The chart, or None where no curve has two points.

    Example:
        >>> drawn = chart({"loss": [(0, 2.0), (50, 1.5), (100, 1.0)]}, axes=("iteration", "loss"))
        >>> drawn.series[0].path
        'M0 0L500 500L1000 1000'
        >>> [tick.text for tick in drawn.x_ticks]
        ['0', '20', '40', '60', '80', '100']
    """
    finite = {name: [p for p in points if _finite(p)] for name, points in curves.items()}
    kept = {name: points for name, points in finite.items() if len(points) > 1}
    if not kept:
        return None
    group = math.ceil(max(map(len, kept.values())) / _MOST_POINTS)
    drawn = {name: _means(points, group) for name, points in kept.items()}
    x_low, x_high = _range([x for points in kept.values() for x, _ in points])
    y_low, y_high = _range([y for points in drawn.values() for _, y in points])
    y_step = _step(y_low, y_high)
    y_low, y_high = math.floor(y_low / y_step) * y_step, math.ceil(y_high / y_step) * y_step

    def path(points: Sequence[Point]) -> str:
        places = (
            f"{_SIDE * (x - x_low) / (x_high - x_low):.0f} "
            f"{_SIDE * (y_high - y) / (y_high - y_low):.0f}"
            for x, y in points
        )
        return "M" + "L".join(places)

    return Chart(
        series=tuple(
            Series(name, path(drawn[name]), place)
            for place, name in enumerate(curves)
            if name in drawn
        ),
        x_label=axes[0],
        y_label=axes[1],
        x_ticks=_ticks(x_low, x_high, _step(x_low, x_high)),
        y_ticks=_ticks(y_low, y_high, y_step),
        note=f"Each point is the mean of {group} consecutive ones." if group > 1 else "",
    )


def _finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _means(points: Sequence[Point], group: int) -> list[Point]:
    parts = [points[i : i + group] for i in range(0, len(points), group)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def _range(values: Sequence[float]) -> Point:
    low, high = min(values), max(values)
    margin = 0.0 if high > low else abs(low) / 10 or 1.0
    return low - margin, high + margin


def _step(low: float, high: float) -> float:
    """The distance between ticks: 1, 2 or 5 times a power of ten, four to nine ticks."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _ticks(low: float, high: float, step: float) -> tuple[Tick, ...]:
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(
        Tick(round(100 * (i * step - low) / (high - low), 2), f"{i * step:,.{decimals}f}")
        for i in range(first, last + 1)
    )
