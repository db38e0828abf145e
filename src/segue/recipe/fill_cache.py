"""Fills the cache of a recipe's data before its stages run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from segue.datasets import Dataset
from segue.datasets.cache import Half, Store, fill, locked
from segue.errors import SegueError
from segue.recipe import build as assembly
from segue.recipe.recipe import CentresStage, PseudoLabelStage, Recipe, TrainStage, TranslateStage
from segue.runtime import processes as distributed
from segue.runtime.cores import available_cores
from segue.runtime.processes import World
from segue.runtime.progress import Meter


@dataclass(frozen=True)
class Wanted:
    """Images or labels of a dataset, by the recipe's name for it, that training will ask for."""

    name: str
    half: Half
    dataset: Dataset
    store: Store


def fill_cache(
    recipe: Recipe, stages: Iterable[str], *, world: World, console: Console | None
) -> None:
    """Writes what the stages will read over and over and the recipe's cache does not have yet.

    The leading process writes, on all cores; the others wait for it, and write themselves where
    its disk is not theirs. Of several runs one writes, the others wait and use what they find.
    What a stage reads once, and what stages make, is not kept.

    Raises:
        SegueError: the disk has too little room, or a file of the data cannot be used.
    """
    if recipe.cache is None:
        return
    folder, stores = Path(recipe.cache), wanted(recipe, stages)
    if world.leads:
        _fill(folder, stores, console)
    distributed.meet(world)
    _fill(folder, stores, None)


def wanted(recipe: Recipe, stages: Iterable[str]) -> list[Wanted]:
    """Each store that the cache should have for these stages, once.

    Raises:
        SegueError: files are missing or do not pair up.
    """
    asked = dict.fromkeys(one for name in stages for one in _asked(recipe, name))
    labelled = {name for name, half, _ in asked if half == "labels"}
    datasets = {
        name: assembly.dataset(recipe, name, labels=name in labelled) for name, _, _ in asked
    }
    found = []
    for name, half, size in asked:
        cache = datasets[name].cache
        store = None if cache is None else cache.store(half, size)
        if store is not None:
            found.append(Wanted(name, half, datasets[name], store))
    return found


def missing(stores: Iterable[Wanted]) -> list[Wanted]:
    """Those that are not there, each file once."""
    return list({one.store.path: one for one in stores if not one.store.whole}.values())


def room(folder: Path, stores: Iterable[Wanted]) -> tuple[int, int]:
    """Bytes that the stores which are not there will take, and bytes that are free.

    Raises:
        SegueError: that is more than there are.
    """
    needed = sum(one.store.nbytes - _grown(one.store.partial) for one in missing(stores))
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise SegueError(
            f"the cache needs {decimal(needed)}, {decimal(free)} are free",
            where=folder,
            fix="set data.cache to a folder on another disk, make room, or leave it out",
        )
    return needed, free


def _asked(recipe: Recipe, stage_name: str) -> Iterator[tuple[str, Half, tuple[int, int]]]:
    """What a stage reads of the recipe's own data more than once: name, half, size."""
    stage = recipe.stages[stage_name]
    if isinstance(stage, TrainStage | CentresStage):
        for half in _own(recipe, stage.source.data, ("images", "labels")):
            yield (*half, stage.source.size)
        if stage.target is not None:
            for half in _own(recipe, stage.target.data, ("images",)):
                yield (*half, stage.target.size)


def _own(recipe: Recipe, name: str, halves: tuple[Half, ...]) -> list[tuple[str, Half]]:
    """The halves of a dataset that no stage makes, by the name of what they were made of."""
    match recipe.stages.get(name):
        case TranslateStage(data=base):
            return [own for own in _own(recipe, base, halves) if own[1] != "images"]
        case PseudoLabelStage(data=base):
            return [own for own in _own(recipe, base, halves) if own[1] != "labels"]
    return [(name, half) for half in halves]


def _grown(partial: Path) -> int:
    return partial.stat().st_size if partial.exists() else 0


def _fill(folder: Path, stores: list[Wanted], console: Console | None) -> None:
    def wait() -> None:
        if console is not None:
            console.print(f"waiting for the run that fills {folder}", soft_wrap=True)

    if not missing(stores):
        return
    with locked(folder, wait):
        needed, free = room(folder, stores)
        if console is not None:
            told = f"cache in {folder}: {decimal(needed)} to write, {decimal(free)} free"
            console.print(told, highlight=False, soft_wrap=True)
        for one in missing(stores):
            _fill_one(one, console)


def _fill_one(one: Wanted, console: Console | None) -> None:
    dataset, (_, height, width, *_) = one.dataset, one.store.shape
    read = dataset.image if one.half == "images" else dataset.label
    meter = Meter(console, f"cache {one.name} {one.half}", len(dataset), "img")
    try:
        meter.start()
        fill(
            one.store,
            lambda index: read(index, (width, height)),
            threads=available_cores(),
            progress=meter.advance,
        )
    finally:
        meter.stop()
