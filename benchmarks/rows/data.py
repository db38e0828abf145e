"""Rows of the topic data: what a lossless cache saves of reading and resizing."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from row import Row, Sides

from segue.datasets import folder
from segue.datasets.cache import Half, cached, fill
from segue.demo.worlds.drawing import draw_scene
from segue.demo.worlds.worlds import SOURCE
from segue.label_space import CITYSCAPES_IDS

Size = tuple[int, int]
IDS: dict[int, int | str] = dict(CITYSCAPES_IDS)


def plain_image(path: Path, size: Size) -> NDArray[np.uint8]:
    """An image as the field's loaders read it."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def plain_label(path: Path, size: Size) -> NDArray[np.uint8]:
    """Train ids as the field's loaders make them: resized first, then one class after another."""
    with Image.open(path) as image:
        raw = np.array(image.resize(size, Image.Resampling.NEAREST))
    train = np.full(raw.shape, 255, np.uint8)
    for one, value in CITYSCAPES_IDS.items():
        train[raw == one] = value
    return train


def largest(ours: NDArray[np.uint8], plain: NDArray[np.uint8]) -> float:
    """The largest difference of a pixel."""
    return float(np.abs(ours.astype(int) - plain.astype(int)).max())


def draw(root: Path, ending: str, size: Size) -> None:
    """Writes a street and its label."""
    image, ids = draw_scene(SOURCE, 0, size)
    for name, array in ((f"images/1.{ending}", image), ("labels/1.png", ids)):
        (root / name).parent.mkdir()
        options: dict[str, Any] = {"quality": 90} if name.endswith(".jpg") else {}
        Image.fromarray(array).save(root / name, **options)


def reading(half: Half, ending: str, drawn: Size, size: Size) -> Sides:
    """One image or label of a drawn street, from the cache and from its file."""
    root = Path(tempfile.mkdtemp())
    # Drawn elsewhere, or what drawing took and gave back would hide what reading takes.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(draw, (root, ending, drawn))
    dataset = folder(root, images=f"images/*.{ending}", ids=IDS, unknown="ignore")
    kept = cached(dataset, root)
    assert kept.cache is not None
    store = kept.cache.store(half, size)
    assert store is not None
    read, plain = {
        "images": (kept.image, plain_image),
        "labels": (kept.label, plain_label),
    }[half]
    fill(store, lambda index: read(index, size), threads=1, progress=lambda _: None)
    path = root / f"images/1.{ending}" if half == "images" else root / "labels/1.png"
    sides = Sides(lambda: read(0, size), lambda: plain(path, size), largest)
    weakref.finalize(sides, shutil.rmtree, root)
    return sides


LOADER = "PIL: open, convert, resize"

ROWS: tuple[Row, ...] = (
    Row(
        "read and resize an image, PNG 1914x1052 to 1280x720",
        LOADER,
        lambda: reading("images", "png", (1914, 1052), (1280, 720)),
        faster=15,
        within=0,
        uses={"iteration": 1},
        repeats=15,
        note="from the cache, in the system's memory: on a disk that is not, 2.8 MB in one read",
    ),
    Row(
        "read and resize an image, PNG 2048x1024 to 1024x512",
        LOADER,
        lambda: reading("images", "png", (2048, 1024), (1024, 512)),
        faster=15,
        within=0,
        uses={"iteration": 1},
        repeats=15,
    ),
    Row(
        "read and resize an image, JPEG 1280x760 to 1280x720",
        LOADER,
        lambda: reading("images", "jpg", (1280, 760), (1280, 720)),
        faster=15,
        within=0,
        repeats=15,
    ),
    Row(
        "read and resize a label, PNG 1914x1052 to 1280x720",
        "PIL: open, resize; ids class by class",
        lambda: reading("labels", "png", (1914, 1052), (1280, 720)),
        faster=15,
        within=0,
        uses={"iteration": 1},
        repeats=15,
    ),
)
