"""Looks at every file of a dataset before a run does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segue.datasets.dataset import UNKNOWN, Dataset, resize_label
from segue.datasets.depth import Deep, Measured
from segue.datasets.files import is_file
from segue.errors import SegueError
from segue.label_space import IGNORE
from segue.runtime.cores import available_cores


@dataclass(frozen=True)
class Inspection:
    """What a dataset's files hold.

    Args:
        total: images in the dataset.
        inspected: images looked at.
        sizes: how many images by (width, height) of the file.
        pixels: [C] labelled pixels of each class, at the size asked for.
        images: [C] images that show each class.
        ignored: pixels of no class.
        unknown: pixels in the files by raw id that the table does not list.
        missing: label files that are not there.
        problems: one line for each thing to mend; ids that are refused count as one.
        deep: what the images of more than 8 bits hold together, by their depth.
        shallow: images of 8 bits.
    """

    total: int
    inspected: int
    sizes: dict[tuple[int, int], int]
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    ignored: int
    unknown: dict[int, int]
    missing: tuple[Path, ...]
    problems: tuple[str, ...]
    deep: tuple[Measured, ...] = ()
    shallow: int = 0


@dataclass
class _Look:
    """What one image and its label hold."""

    size: tuple[int, int] | None = None
    deep: Measured | None = None  # None of 8 bits
    pixels: NDArray[np.int64] | None = None  # [256] by train id
    unknown: dict[int, int] = field(default_factory=dict)
    missing: Path | None = None
    problems: list[str] = field(default_factory=list)


def inspect(
    dataset: Dataset,
    size: tuple[int, int] | None = None,
    *,
    sample: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Decodes every image and label of a dataset, in threads, and gathers all problems.

    Args:
        dataset: its labels are looked at where it has any.
        size: width and height at which pixels are counted; None, as the files are.
        sample: look at this many images, evenly spread, in place of all.
        progress: called with (images done, images to do).
    """
    indices = list(range(len(dataset)))
    if sample is not None and sample < len(indices):
        indices = [place * len(dataset) // sample for place in range(sample)]
    looks: list[_Look] = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for look in pool.map(lambda index: _look(dataset, index, size), indices):
            looks.append(look)
            if progress is not None:
                progress(len(looks), len(indices))
    return _gather(dataset, looks)


def _look(dataset: Dataset, index: int, size: tuple[int, int] | None) -> _Look:
    item, look = dataset.items[index], _Look()
    try:
        picture = dataset.picture(index)
        values = picture.values if isinstance(picture, Deep) else picture
        look.size = values.shape[1], values.shape[0]
        if isinstance(picture, Deep):
            look.deep = picture.measured(dataset.range)
            if look.deep.shown is None:
                picture.rgb(dataset.range)  # says why
    except SegueError as error:
        look.problems.append(str(error))
    if item.label is None:
        return look
    if not is_file(item.label):
        look.missing = item.label
        return look
    if look.size is None:
        return look
    try:
        raw = dataset.raw_label(index)
    except SegueError as error:
        look.problems.append(str(error))
        return look
    train = dataset.ids[raw]
    strange, counts = np.unique(raw[train == UNKNOWN], return_counts=True)
    look.unknown = dict(zip(strange.tolist(), counts.tolist(), strict=True))
    train[train == UNKNOWN] = IGNORE
    train = train if size is None else resize_label(train, size)
    look.pixels = np.bincount(train.ravel(), minlength=256)
    return look


def _gather(dataset: Dataset, looks: list[_Look]) -> Inspection:
    pixels, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
    unknown: Counter[int] = Counter()
    for look in looks:
        unknown.update(look.unknown)
        if look.pixels is not None:
            pixels += look.pixels
            images += look.pixels > 0
    missing = tuple(look.missing for look in looks if look.missing is not None)
    problems = [problem for look in looks for problem in look.problems]
    if missing:
        names = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        error = SegueError(
            f"{len(missing)} images have no label: {names}",
            where=dataset.name,
            fix="add the labels or remove the images",
        )
        problems.append(str(error))
    if unknown and dataset.unknown == "refuse":
        names = ", ".join(f"{raw} ({count} pixels)" for raw, count in sorted(unknown.items()))
        error = SegueError(
            f"unknown ids: {names}",
            where=dataset.name,
            fix="add them to `ids` (255 = ignored) or set `unknown: ignore`",
        )
        problems.append(str(error))
    classes = dataset.label_space.num_classes
    return Inspection(
        total=len(dataset),
        inspected=len(looks),
        sizes=dict(Counter(look.size for look in looks if look.size is not None)),
        pixels=pixels[:classes],
        images=images[:classes],
        ignored=int(pixels[IGNORE]),
        unknown=dict(sorted(unknown.items())),
        missing=missing,
        problems=tuple(problems),
        deep=_together([look.deep for look in looks if look.deep is not None]),
        shallow=sum(look.size is not None and look.deep is None for look in looks),
    )


def _together(measured: list[Measured]) -> tuple[Measured, ...]:
    """What several images hold, in one for each depth."""
    found = []
    for depth in dict.fromkeys(one.depth for one in measured):
        same = [one for one in measured if one.depth == depth]
        shown = [one.shown for one in same if one.shown is not None]
        found.append(
            Measured(
                depth,
                min(one.low for one in same),
                max(one.high for one in same),
                (min(low for low, _ in shown), max(high for _, high in shown)) if shown else None,
                sum(one.clipped for one in same) / len(same),
            )
        )
    return tuple(found)
