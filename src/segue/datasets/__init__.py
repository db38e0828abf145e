"""Datasets: files in known layouts, read as images and train ids.

A new layout is one file with one function, and one line in `DATASETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from segue.datasets.cityscapes import cityscapes
from segue.datasets.dataset import Dataset, Item
from segue.datasets.folder import folder
from segue.datasets.gta5 import gta5
from segue.datasets.synthia import synthia

DATASETS: Mapping[str, Callable[..., Dataset]] = {
    "gta5": gta5,
    "synthia": synthia,
    "cityscapes": cityscapes,
    "folder": folder,
}

__all__ = ["DATASETS", "Dataset", "Item", "cityscapes", "folder", "gta5", "synthia"]
