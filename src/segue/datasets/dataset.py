"""A dataset: pairs of files, the classes of their labels, and how raw ids become train ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segue.datasets.cache import Cache
from segue.datasets.depth import Deep, Range
from segue.datasets.reading import read_image, read_image_size, read_picture, read_raw_label
from segue.errors import SegueError
from segue.label_space import IGNORE, LabelSpace

UNKNOWN = 254  # stands in a table of train ids for a raw id that nobody listed


@dataclass(frozen=True)
class Item:
    """An image file and its label file; None where there is none, or none may be read.

    Either may lie in a ZIP file, as `segue.datasets.files` says.
    """

    image: Path
    label: Path | None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Files in a fixed order; whether they serve as source or target is the recipe's business.

    Args:
        name: how messages call it.
        items: the files.
        label_space: the classes of the train ids.
        ids: [65536] uint8, raw id to train id, as `id_table` makes it.
        unknown: what a raw id that `ids` does not list does to its pixels: "ignore" makes them
            255, "refuse" is an error that names the id.
        sizes_differ: whether a label may be of another size than its image file, as where a
            stage has made one of them at the size it works at.
        cache: where images and labels may lie decoded and resized already.
        range: what is black and white in images of more than 8 bits; None: by their depth.
    """

    name: str
    items: tuple[Item, ...]
    label_space: LabelSpace
    ids: NDArray[np.uint8]
    unknown: Literal["ignore", "refuse"] = "ignore"
    sizes_differ: bool = False
    cache: Cache | None = None
    range: Range | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labelled(self) -> bool:
        """Whether every image has a label that may be read."""
        return all(item.label is not None for item in self.items)

    def raw_size(self, index: int) -> tuple[int, int]:
        """Width and height of the image file, read from its header."""
        return read_image_size(self.items[index].image)

    def image(self, index: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """The image as RGB [H, W, 3], resized (bicubic, PIL's) to `size` = (width, height).

        Raises:
            SegueError: the file is missing, empty, truncated, no image or too large.
        """
        if size is not None and self.cache is not None:
            kept = self.cache.image(index, size)
            if kept is not None:
                return kept
        image = read_image(self.items[index].image, self.range)
        if size is not None and size != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.array(image)

    def picture(self, index: int) -> NDArray[np.uint8] | Deep:
        """The upright image at its own size; of more than 8 bits as the file holds it.

        Raises:
            SegueError: as for `image`.
        """
        return read_picture(self.items[index].image)

    def read_by(self, range_: Range | None) -> Dataset:
        """The dataset read as a model reads images, where it has no range of its own."""
        if self.range is not None or range_ is None:
            return self
        cache = None if self.cache is None else replace(self.cache, images=None)
        return replace(self, range=range_, cache=cache)

    def label(self, index: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """The train ids [H, W], 255 ignored, resized (nearest, PIL's) to `size` (width, height).

        Raises:
            SegueError: there is no label, its size is not the image's, it holds ids that nobody
                listed, or the file is missing, empty, truncated or no label.
        """
        if size is not None and self.cache is not None:
            kept = self.cache.label(index, size)
            if kept is not None:
                return kept
        raw = self.raw_label(index)
        train = self.ids[raw]
        strange = train == UNKNOWN
        if strange.any():
            if self.unknown == "refuse":
                found = zip(*np.unique(raw[strange], return_counts=True), strict=True)
                names = ", ".join(f"{value} ({count} pixels)" for value, count in found)
                raise SegueError(
                    f"unknown ids: {names}",
                    where=self.items[index].label,
                    fix="add them to `ids` (255 = ignored) or set `unknown: ignore`",
                )
            train[strange] = IGNORE
        return train if size is None else resize_label(train, size)

    def raw_label(self, index: int) -> NDArray[np.uint16]:
        """The ids [H, W] as the label file holds them.

        Raises:
            SegueError: as for `label`, unknown ids apart.
        """
        item = self.items[index]
        if item.label is None:
            raise SegueError(
                "has no label", where=item.image, fix=f"give dataset {self.name} its labels"
            )
        raw = read_raw_label(item.label)
        if self.sizes_differ:
            return raw
        found, wanted = (raw.shape[1], raw.shape[0]), self.raw_size(index)
        if found != wanted:
            raise SegueError(
                f"the label is {found[0]}x{found[1]} but its image {item.image.name} is "
                f"{wanted[0]}x{wanted[1]}",
                where=item.label,
                fix="labels and images must be of one size: find the right pair or make it again",
            )
        return raw


def resize_label(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Train ids [H, W] resized to `size` = (width, height): nearest, PIL's."""
    if size == (label.shape[1], label.shape[0]):
        return label
    return np.array(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))


def id_table(ids: Mapping[int, int | str], label_space: LabelSpace) -> NDArray[np.uint8]:
    """The [65536] table of train ids for raw ids; those not listed are marked unknown.

    Args:
        ids: raw id to train id, class name, 255 or "ignore".
        label_space: the classes.

    Raises:
        SegueError: a raw id is not 0 to 65535, or its train id or name is not a class.

    Example:
        >>> from segue.label_space import CITYSCAPES
        >>> id_table({7: 0, 8: "sidewalk", 0: "ignore"}, CITYSCAPES)[[7, 8, 0, 9]].tolist()
        [0, 1, 255, 254]
    """
    table = np.full(65536, UNKNOWN, np.uint8)
    for raw, value in ids.items():
        if not 0 <= raw <= 65535:
            raise SegueError(f"raw id {raw}", where="ids", fix="raw ids are 0 to 65535")
        if isinstance(value, str):
            train = IGNORE if value == "ignore" else label_space.train_id(value)
        else:
            train = value
        if train != IGNORE and not 0 <= train < label_space.num_classes:
            raise SegueError(
                f"raw id {raw} becomes train id {train}",
                where="ids",
                fix=f"label space {label_space.name} has 0 to {label_space.num_classes - 1}, "
                f"{IGNORE} is ignored",
            )
        table[raw] = train
    return table
