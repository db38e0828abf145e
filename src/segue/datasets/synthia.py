"""SYNTHIA-RAND-CITYSCAPES: 9,400 rendered street scenes."""

from __future__ import annotations

from pathlib import Path

from segue.datasets.cityscapes import cityscapes_ids
from segue.datasets.dataset import Dataset
from segue.datasets.pairing import find_pairs
from segue.label_space import CITYSCAPES, LabelSpace

# SYNTHIA's class to Cityscapes' train id.
SYNTHIA_IDS: dict[int, int] = {
    3: 0,
    4: 1,
    2: 2,
    21: 3,
    5: 4,
    7: 5,
    15: 6,
    9: 7,
    6: 8,
    16: 9,
    1: 10,
    10: 11,
    17: 12,
    8: 13,
    18: 14,
    19: 15,
    20: 16,
    12: 17,
    11: 18,
}


def synthia(
    root: Path,
    *,
    first: str | None = None,
    last: str | None = None,
    ids: dict[int, int | str] | None = None,
    label_space: LabelSpace = CITYSCAPES,
    with_labels: bool = True,
) -> Dataset:
    """SYNTHIA's RAND_CITYSCAPES set (Ros et al., CVPR 2016) as it is distributed.

    `RGB/*.png`, and under the same names `GT/LABELS/*.png`: 16 bits and three channels, of which
    the first, red, holds the class. It is distributed as RAR, which has to be unpacked.

    Args:
        root: the folder `RAND_CITYSCAPES`, which holds `RGB` and `GT`.
        first: stem of the first image, None for the start.
        last: stem of the last image, None for the end.
        ids: raw id to train id or class name, in place of SYNTHIA's table.
        label_space: the classes of the train ids.
        with_labels: False makes, looks for and opens no label path.

    Raises:
        SegueError: files are missing, or `ids` do not fit the classes.
    """
    items = find_pairs(
        root, "RGB/*.png", "GT/LABELS/{stem}.png" if with_labels else None, first=first, last=last
    )
    return Dataset("synthia", items, label_space, cityscapes_ids(ids, label_space, SYNTHIA_IDS))
