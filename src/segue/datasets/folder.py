"""Any images with labels beside them, described by patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from segue.datasets.dataset import Dataset, id_table
from segue.datasets.pairing import find_pairs
from segue.label_space import CITYSCAPES, IGNORE, LabelSpace


def folder(
    root: Path,
    *,
    images: str = "images/*.jpg",
    labels: str | None = "labels/{stem}.png",
    first: str | None = None,
    last: str | None = None,
    ids: dict[int, int | str] | None = None,
    unknown: Literal["ignore", "refuse"] = "refuse",
    label_space: LabelSpace = CITYSCAPES,
    with_labels: bool = True,
) -> Dataset:
    """Image files and the label files that belong to them, with no code.

    `labels` may use three placeholders: `{stem}`, the image's file name without its ending;
    `{star}`, what the one `*` in the file part of `images` stands for; `{parent}`, the image's
    folder below the part of `images` before its first `*`. With `images: rgb/**/*_rgb.png`
    and `labels: gt/{parent}/{star}_ids.png`, `rgb/a/7_rgb.png` goes with `gt/a/7_ids.png`.

    Args:
        root: the folder that the patterns start from, or a ZIP file (`data.zip`), or a folder
            inside one (`data.zip/day`). ZIP files in it are read as if they were unpacked there.
        images: a glob; `**` goes through folders.
        labels: the label file of an image; None where there are none.
        first: stem of the first image, None for the start.
        last: stem of the last image, None for the end.
        ids: raw id to train id, class name, 255 or "ignore"; None where the files hold train ids.
        unknown: what a raw id that `ids` does not list is, an error or ignored.
        label_space: the classes of the train ids.
        with_labels: False makes, looks for and opens no label path.

    Raises:
        SegueError: files are missing, a pattern is wrong, or `ids` do not fit the classes.
    """
    items = find_pairs(root, images, labels if with_labels else None, first=first, last=last)
    if ids is None:
        ids = {**{train: train for train in range(label_space.num_classes)}, IGNORE: IGNORE}
    name = root.resolve().name or "folder"
    return Dataset(name, items, label_space, id_table(ids, label_space), unknown)
