"""Datasets that a stage of a recipe makes: translated images, pseudo-labels.

Each keeps the order and the other half of the dataset it was made of, and can be named wherever a
dataset can.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from os.path import commonpath, normpath
from pathlib import Path

from segue.datasets.dataset import Dataset, Item, id_table
from segue.datasets.files import unpacked
from segue.errors import SegueError
from segue.label_space import IGNORE


def image_paths(dataset: Dataset, folder: Path) -> list[Path]:
    """Where a stage's translation of each image lies below the stage's folder."""
    return _places(dataset, folder / "images")


def label_paths(dataset: Dataset, folder: Path) -> list[Path]:
    """Where a stage's pseudo-label of each image lies below the stage's folder."""
    return _places(dataset, folder / "labels")


def translated(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with a translate stage's images in place of its own.

    Raises:
        SegueError: an image is not there yet.
    """
    paths = _existing(image_paths(dataset, folder))
    pairs = zip(dataset.items, paths, strict=True)
    items = tuple(Item(path, item.label) for item, path in pairs)
    cache = None if dataset.cache is None else replace(dataset.cache, images=None)
    return replace(dataset, name=folder.name, items=items, sizes_differ=True, cache=cache)


def pseudo_labelled(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with a pseudo_label stage's labels, which are train ids.

    Raises:
        SegueError: a label is not there yet.
    """
    space, paths = dataset.label_space, _existing(label_paths(dataset, folder))
    pairs = zip(dataset.items, paths, strict=True)
    items = tuple(Item(item.image, path) for item, path in pairs)
    train_ids = {**{train: train for train in range(space.num_classes)}, IGNORE: IGNORE}
    cache = None if dataset.cache is None else replace(dataset.cache, labels=None)
    table = id_table(train_ids, space)
    return Dataset(folder.name, items, space, table, "refuse", True, cache, dataset.range)


def _places(dataset: Dataset, folder: Path) -> list[Path]:
    """PNG files that keep the folders and names of the images below what they have in common."""
    # `..` in a name, as ZIP files may hold, must not lead out.
    images = [Path(normpath(unpacked(item.image).absolute())) for item in dataset.items]
    base = Path(commonpath([image.parent for image in images]))
    inside = [image.relative_to(base) for image in images]
    stems = Counter(path.with_suffix("") for path in inside)
    # a.jpg and a.png in one folder keep their endings apart
    named = [path.with_suffix("") if stems[path.with_suffix("")] == 1 else path for path in inside]
    return [folder / path.with_name(f"{path.name}.png") for path in named]


def _existing(paths: list[Path]) -> list[Path]:
    for path in paths:
        if not path.is_file():
            raise SegueError("is not there", where=path, fix="run the stage that makes it")
    return paths
