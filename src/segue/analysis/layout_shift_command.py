"""`segue analyse layout-shift`: label maps of two datasets in, curves and a patch size out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from segue.analysis.layout_shift import LayoutShift, measure, save
from segue.datasets import Dataset
from segue.errors import SegueError
from segue.parts import choose
from segue.recipe import build as assembly
from segue.recipe import load
from segue.runtime.processes import join
from segue.runtime.progress import Meter


class LabelMaps(Sequence[NDArray[np.uint8]]):
    """Train ids of some images of a dataset, read when asked for and kept.

    Args:
        dataset: a labelled one.
        indices: which images.
        size: width and height to keep them at, the size that every map is resized to anyway.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int], size: tuple[int, int]) -> None:
        self.dataset, self.indices, self.size = dataset, list(indices), size
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        index = self.indices[position]
        if index not in self._kept:
            self._kept[index] = self.dataset.label(index, self.size)
        return self._kept[index]


def run(
    recipe_name: str,
    overrides: Sequence[str],
    output: Path,
    *,
    source: str,
    target: str,
    size: tuple[int, int],
    patches: str,
    iterations: int,
    every: int,
    runs: int,
    validation: int,
    mask_void: bool,
    console: Console,
) -> LayoutShift:
    """Measures how far the layouts of two labelled datasets of a recipe differ.

    Of each set, `validation` maps (at most half) are kept out: a block in the middle of the
    list, since neighbours in a video are near-duplicates.

    Raises:
        SegueError: the recipe has no such dataset, or it has no labels.
    """
    recipe = load(recipe_name, overrides)
    maps: dict[str, tuple[LabelMaps, LabelMaps]] = {}
    for name in (source, target):
        choose(recipe.data, name, where="analyse layout-shift", what="dataset of the recipe")
        dataset = assembly.dataset(recipe, name, labels=True)
        if not dataset.labelled:
            fix = "this analysis needs two labelled sets: choose with --source and --target"
            raise SegueError("has no labels", where=f"data.{name}", fix=fix)
        maps[name] = split(dataset, validation, size)
    wanted: list[int | Literal["whole"]] = [
        "whole" if part.strip() == "whole" else _side(part) for part in patches.split(",")
    ]
    meter = Meter(console, "layout shift", runs * iterations * len(wanted))
    meter.start()
    result = measure(
        maps[source][0],
        maps[source][1],
        maps[target][0],
        maps[target][1],
        num_classes=recipe.classes().num_classes,
        patches=wanted,
        size=size,
        iterations=iterations,
        every=every,
        runs=runs,
        mask_void=mask_void,
        seed=recipe.seed,
        device=str(join(recipe.device).device),
        progress=lambda done, _total, _text: meter.advance(done),
    )
    meter.stop()
    written = save(result, output, title=f"{recipe.name}: {source} against {target}")
    for curve in result.curves:
        error = 100 * curve.final_error
        mark = "  suggested" if curve is result.suggested else ""
        console.print(f"patch {curve.label:<20} final error {error:5.1f} %{mark}", highlight=False)
    for note in result.notes:
        console.print(note, style="dim")
    console.print("written: " + ", ".join(str(path) for path in written), style="dim")
    return result


def split(dataset: Dataset, validation: int, size: tuple[int, int]) -> tuple[LabelMaps, LabelMaps]:
    """Maps to train on and maps kept out, a block in the middle."""
    count = len(dataset)
    held = min(validation, count // 2)
    first = (count - held) // 2
    kept_out = range(first, first + held)
    rest = [index for index in range(count) if index not in kept_out]
    return LabelMaps(dataset, rest, size), LabelMaps(dataset, kept_out, size)


def _side(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        fix = "write sides in pixels and `whole`, as 32,64,whole"
        raise SegueError(f"{text.strip()!r} is no patch size", where="--patches", fix=fix)
    return int(text)
