"""Cityscapes: street scenes of 50 cities, 19 evaluated classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segue.datasets.dataset import Dataset, id_table
from segue.datasets.pairing import find_pairs
from segue.errors import SegueError
from segue.label_space import CITYSCAPES, CITYSCAPES_IDS, IGNORE, LabelSpace, of_cityscapes


def cityscapes(
    root: Path,
    *,
    split: Literal["train", "val", "test"] = "train",
    first: str | None = None,
    last: str | None = None,
    ids: dict[int, int | str] | None = None,
    label_space: LabelSpace = CITYSCAPES,
    with_labels: bool = True,
) -> Dataset:
    """Cityscapes (Cordts et al., CVPR 2016) as it is distributed, with the fine annotations.

    `leftImg8bit/<split>/<city>/*_leftImg8bit.png` and
    `gtFine/<split>/<city>/*_gtFine_labelIds.png`; the second is not needed without labels.
    `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip` may stay as they are.

    Args:
        root: the folder that holds `leftImg8bit` and `gtFine`, or the ZIP files.
        split: which part.
        first: stem of the first image, None for the start.
        last: stem of the last image, None for the end.
        ids: raw id to train id or class name, in place of Cityscapes' table.
        label_space: the classes of the train ids.
        with_labels: False makes, looks for and opens no label path.

    Raises:
        SegueError: files are missing, or `ids` do not fit the classes.
    """
    items = find_pairs(
        root,
        f"leftImg8bit/{split}/*/*_leftImg8bit.png",
        f"gtFine/{split}/{{parent}}/{{star}}_gtFine_labelIds.png" if with_labels else None,
        first=first,
        last=last,
        zips=("leftImg8bit*.zip", "gtFine*.zip"),
    )
    return Dataset("cityscapes", items, label_space, cityscapes_ids(ids, label_space))


def cityscapes_ids(
    ids: Mapping[int, int | str] | None,
    label_space: LabelSpace,
    default: Mapping[int, int] = CITYSCAPES_IDS,
) -> NDArray[np.uint8]:
    """The table of the ids given, or else of a default that leads to Cityscapes' 19 classes.

    For `cityscapes16` that default leads to the same classes by their names, and what it leaves out
    is ignored.

    Raises:
        SegueError: no ids are given for classes that are not Cityscapes', or they do not fit.
    """
    if ids is None and not of_cityscapes(label_space):
        raise SegueError(
            f"this dataset's own ids lead to Cityscapes' classes, not to {label_space.name}",
            where="ids",
            fix="give `ids`: raw id to class name",
        )
    if ids is None:
        places = {name: place for place, name in enumerate(label_space.classes)}
        names = {raw: CITYSCAPES.classes[train] for raw, train in default.items()}
        ids = {raw: places.get(name, IGNORE) for raw, name in names.items()}
    return id_table(ids, label_space)
