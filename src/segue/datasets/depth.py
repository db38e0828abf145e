"""From the numbers of a deep picture to 8 bits: by its depth, or by a range that is given.

Pictures of 8 bits and fewer are read as every viewer shows them, and no range touches them. Of
more bits, and without a range, black is 0 and white the highest value of the depth: of 16 bits the
upper 8 are kept. Floating point numbers go from 0 to 1. Numbers of which nothing says what white
is (32 bits, signed ones, floats beyond 0 to 1) need a range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.errors import SegueError

WRITE = "write two numbers or percentiles, as [0, 4095] or ['1%', '99%']"
KEY = "range"  # of a dataset in a recipe, and of a model's description
_PERCENT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*")
SET_RANGE = "set `range`, as [0, 4095] or ['1%', '99%']"


@dataclass(frozen=True)
class Range:
    """Which values of deep pictures become black (0) and white (255), linearly between them.

    Args:
        low: what becomes 0: a number as the file has it, or a percentile of the picture's values
            such as "1%".
        high: what becomes 255, likewise.
    """

    low: float | str
    high: float | str

    @classmethod
    def from_settings(cls, value: object, where: object) -> Range | None:
        """The range of a recipe or a model file; nothing where there is none.

        Raises:
            SegueError: it is not two numbers or percentiles, the lower one first.

        Example:
            >>> Range.from_settings(["1%", 4095], "data.target.range")
            Range(low='1%', high=4095)
        """
        if value is None:
            return None
        wrong = SegueError(f"{value!r} will not do", where=where, fix=WRITE)
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
            raise wrong
        low, high = value
        if not _bound(low) or not _bound(high):
            raise wrong
        found = cls(low, high)
        a, b = found.percentiles
        if (a is None) == (b is None) and not (a if a is not None else float(low)) < (
            b if b is not None else float(high)
        ):
            raise SegueError(f"{value!r} goes from high to low", where=where, fix=WRITE)
        return found

    @property
    def settings(self) -> list[float | str]:
        """As recipes and model files write it."""
        return [self.low, self.high]

    @property
    def percentiles(self) -> tuple[float | None, float | None]:
        """Those of the two ends that are percentiles, in percent."""
        low, high = (_percent(bound) for bound in (self.low, self.high))
        return low, high

    def ends(self, values: NDArray[Any]) -> tuple[float, float]:
        """The two ends for a picture, percentiles over its finite values of all channels."""
        percentiles = self.percentiles
        wanted = [one for one in percentiles if one is not None]
        found: list[float] = []
        if wanted:
            counted = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
            found = np.percentile(counted, wanted).tolist() if counted.size else [0.0] * len(wanted)
        low, high = (
            found.pop(0) if percentile is not None else float(bound)
            for percentile, bound in zip(percentiles, (self.low, self.high), strict=True)
        )
        return low, high

    def __str__(self) -> str:
        """As messages say it.

        Example:
            >>> str(Range(0, 4095)), str(Range("1%", "99%"))
            ('0 to 4095', '1% to 99%')
        """
        low, high = (one if isinstance(one, str) else f"{one:g}" for one in (self.low, self.high))
        return f"{low} to {high}"


def _bound(value: object) -> bool:
    if isinstance(value, str):
        percent = _percent(value)
        return percent is not None and percent <= 100
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _percent(value: float | str) -> float | None:
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) if match else None


@dataclass(frozen=True)
class Measured:
    """What a deep picture holds, and what becomes of it.

    Args:
        depth: its bits and kind of numbers, such as "16 bit".
        low: its lowest finite value.
        high: its highest finite value.
        shown: the darkest and brightest of its 8 bits; None where it cannot be read without a
            range.
        clipped: the share of its values that lie outside a range of numbers.
    """

    depth: str
    low: float
    high: float
    shown: tuple[int, int] | None
    clipped: float = 0.0


@dataclass(frozen=True, eq=False)
class Deep:
    """A picture of more than 8 bits as stored.

    Args:
        values: [H, W] or RGB [H, W, 3].
        depth: bits and kind of numbers, for messages.
        white: the highest value of its depth; None where nothing says what white is.
        where: what errors call it.
        fix: what is to be done where nothing says what white is.
    """

    values: NDArray[Any]
    depth: str
    white: int | None
    where: object
    fix: str = SET_RANGE

    def rgb(self, range_: Range | None) -> NDArray[np.uint8]:
        """RGB [H, W, 3] of 8 bits.

        Raises:
            SegueError: without a range nothing says what white is.
        """
        grey = self._eight_bits(range_)
        return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)

    def measured(self, range_: Range | None) -> Measured:
        """What it holds, and what becomes of it."""
        values = self.values
        if values.dtype.kind == "f":
            finite = values[np.isfinite(values)]
            values = finite if finite.size else np.zeros(1, values.dtype)
        low, high = float(values.min()), float(values.max())
        clipped = 0.0
        if range_ is not None and range_.percentiles == (None, None):
            bottom, top = range_.ends(values)
            clipped = float(((values < bottom) | (values > top)).mean())
        try:
            eight = self._eight_bits(range_)
        except SegueError:
            return Measured(self.depth, low, high, None, clipped)
        return Measured(self.depth, low, high, (int(eight.min()), int(eight.max())), clipped)

    def _eight_bits(self, range_: Range | None) -> NDArray[np.uint8]:
        values = self.values
        if range_ is not None:
            return _stretched(values, *range_.ends(values))
        if values.dtype.kind == "f":
            if not ((values >= 0) & (values <= 1)).all():
                raise self._no_white()
            return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
        if self.white is None:
            raise self._no_white()
        if self.white == 65535:
            return (values >> 8).astype(np.uint8)
        return (values.astype(np.uint32) * 256 // (self.white + 1)).astype(np.uint8)

    def _no_white(self) -> SegueError:
        finite = self.values[np.isfinite(self.values)]
        holds = f"{self.depth} values, none of them finite"
        if finite.size:
            hole = " and NaN or infinity" if finite.size < self.values.size else ""
            holds = f"{self.depth} values from {finite.min():g} to {finite.max():g}{hole}"
        told = f"{holds}, of which nothing says what white is"
        return SegueError(told, where=self.where, fix=self.fix)


def _stretched(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """`low` to `high` over 0 to 255; what is no number is black."""
    if not high > low:  # a picture of one value
        return np.zeros(values.shape, np.uint8)

    def stretch(given: NDArray[Any]) -> NDArray[np.uint8]:
        share = (given.astype(np.float64) - low) / (high - low)
        return np.asarray(np.rint(np.nan_to_num(share, nan=0.0).clip(0, 1) * 255), np.uint8)

    if values.dtype == np.uint16 and values.size > 65536:
        return np.asarray(stretch(np.arange(65536))[values])
    return stretch(values)
