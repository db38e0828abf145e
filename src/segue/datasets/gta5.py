"""GTA5: 24,966 frames of a game, labelled with Cityscapes' ids."""

from __future__ import annotations

from pathlib import Path

from segue.datasets.cityscapes import cityscapes_ids
from segue.datasets.dataset import Dataset
from segue.datasets.pairing import find_pairs
from segue.label_space import CITYSCAPES, LabelSpace


def gta5(
    root: Path,
    *,
    first: str | None = None,
    last: str | None = None,
    ids: dict[int, int | str] | None = None,
    label_space: LabelSpace = CITYSCAPES,
    with_labels: bool = True,
) -> Dataset:
    """GTA5 (Richter et al., ECCV 2016) as it is distributed, all parts in one folder.

    `images/*.png`, and under the same names `labels/*.png`: palette images whose indices are
    Cityscapes ids. Ids that Cityscapes does not evaluate, and GTA5's own 34, are ignored.
    The official split is a MATLAB file and not read: choose frames with `first` and `last`.
    The ZIP files `01_images.zip` to `10_labels.zip` may stay as they are.

    Args:
        root: the folder that holds `images` and `labels`, or the ZIP files.
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
        "images/*.png",
        "labels/{stem}.png" if with_labels else None,
        first=first,
        last=last,
        zips=("*_images.zip", "*_labels.zip"),
    )
    return Dataset("gta5", items, label_space, cityscapes_ids(ids, label_space))
