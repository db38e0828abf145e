"""Writes the two worlds to disk: the source in GTA5's layout, the target in Cityscapes'."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from segue.demo.worlds.drawing import draw_scene
from segue.demo.worlds.worlds import SOURCE, TARGET, World
from segue.errors import SegueError

VERSION = 1  # of the drawing: raised with every change that alters a pixel
SMALLEST = 32

# Colours of the Cityscapes label ids 0 to 34, the palette of GTA5's label files (34 is GTA5's own).
PALETTE: tuple[tuple[int, int, int], ...] = (
    *((0, 0, 0),) * 5,
    *((111, 74, 0), (81, 0, 81), (128, 64, 128), (244, 35, 232), (250, 170, 160)),
    *((230, 150, 140), (70, 70, 70), (102, 102, 156), (190, 153, 153), (180, 165, 180)),
    *((150, 100, 100), (150, 120, 90), (153, 153, 153), (153, 153, 153), (250, 170, 30)),
    *((220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)),
    *((255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 0, 90), (0, 0, 110)),
    *((0, 80, 100), (0, 0, 230), (119, 11, 32), (0, 0, 142)),
)


@dataclass(frozen=True)
class _Picture:
    world: World
    split: str
    index: int
    image: Path
    label: Path | None
    palette: bool


def write_worlds(
    root: Path,
    *,
    source: int,
    target_train: int,
    target_val: int,
    size: tuple[int, int] = (256, 128),
    seed: int = 0,
    target_train_labels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write both worlds under `root`, all or nothing; a second identical call does nothing.

    Every picture depends on the seed, its world, its split and its number alone, so more of them
    begin with the same ones. `root/world.json` says what was written.

    Args:
        root: a folder that does not exist yet or is empty, or one written before.
        source: labelled source images, in `root/source` as GTA5: `images`, `labels` (palette
            PNGs whose indices are Cityscapes label ids).
        target_train: unlabelled target images, in `root/target` as Cityscapes.
        target_val: labelled target images.
        size: width and height in pixels.
        seed: of everything.
        target_train_labels: also write the labels of `target_train`, for analyses of layout.
        progress: called with pictures done and pictures in all.

    Raises:
        SegueError: the folder holds something else, or it cannot be written.
    """
    root = Path(root)
    counts = {"source": source, "target_train": target_train, "target_val": target_val}
    wrong = [name for name, count in counts.items() if count < 0]
    if wrong or min(size) < SMALLEST:
        what = f"{wrong[0]}={counts[wrong[0]]} images" if wrong else f"size={size[0]}x{size[1]}"
        raise SegueError(f"cannot draw {what}", fix=f"no fewer than 0 images, {SMALLEST} pixels")
    settings: dict[str, Any] = json.loads(
        json.dumps(
            {
                "version": VERSION,
                "seed": seed,
                "size": size,
                "images": counts,
                "target_train_labels": target_train_labels,
                "worlds": [asdict(SOURCE), asdict(TARGET)],
            }
        )
    )
    if _written(root, settings):
        return
    part = root.with_name(f".{root.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        _write_all(part, list(_pictures(part, counts, target_train_labels)), seed, size, progress)
        (part / "world.json").write_text(json.dumps(settings, indent=1) + "\n")
        _put_in_place(part, root, settings)
    except OSError as error:
        fix = "free some space or choose another folder"
        raise SegueError(f"cannot write: {error.strerror or error}", where=root, fix=fix) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _written(root: Path, settings: dict[str, Any]) -> bool:
    """Whether these very worlds are there already; complains where something else is."""
    if not root.exists():
        return False
    note = root / "world.json"
    if not note.is_file():
        if root.is_dir() and not any(root.iterdir()):
            return False
        what = "a folder with other things in it" if root.is_dir() else "not a folder"
        raise SegueError(what, where=root, fix="choose another folder for the worlds")
    try:
        found = json.loads(note.read_text())
    except ValueError:
        found = None
    if found == settings:
        return True
    known = found if isinstance(found, dict) else {}
    others = [name for name, value in settings.items() if known.get(name) != value]
    what = f"holds worlds with other parameters ({', '.join(others)})"
    raise SegueError(what, where=root, fix="choose another folder, or delete this one")


def _pictures(root: Path, counts: dict[str, int], train_labels: bool) -> Iterator[_Picture]:
    for index in range(1, counts["source"] + 1):
        folder, name = root / "source", f"{index:05d}.png"
        image, label = folder / "images" / name, folder / "labels" / name
        yield _Picture(SOURCE, "train", index, image, label, palette=True)
    for split in ("train", "val"):
        labelled = split == "val" or train_labels
        for index in range(1, counts[f"target_{split}"] + 1):
            stem = f"demo_000000_{index:06d}"
            folder = root / "target"
            image = folder / "leftImg8bit" / split / "demo" / f"{stem}_leftImg8bit.png"
            label = folder / "gtFine" / split / "demo" / f"{stem}_gtFine_labelIds.png"
            yield _Picture(TARGET, split, index, image, label if labelled else None, palette=False)


def _write_all(
    root: Path,
    pictures: list[_Picture],
    seed: int,
    size: tuple[int, int],
    progress: Callable[[int, int], None] | None,
) -> None:
    root.mkdir(parents=True)
    colours = [value for colour in PALETTE for value in colour]
    for done, picture in enumerate(pictures, start=1):
        stream = zlib.crc32(f"{picture.world.name}/{picture.split}".encode())
        image, ids = draw_scene(picture.world, (seed, stream, picture.index), size)
        picture.image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(picture.image, compress_level=1)
        if picture.label is not None:
            picture.label.parent.mkdir(parents=True, exist_ok=True)
            label = Image.fromarray(ids)
            if picture.palette:
                label.putpalette(colours)
            label.save(picture.label, compress_level=1)
        if progress is not None:
            progress(done, len(pictures))


def _put_in_place(part: Path, root: Path, settings: dict[str, Any]) -> None:
    if root.exists() and not any(root.iterdir()):
        root.rmdir()
    try:
        part.rename(root)
    except OSError:
        # Another process may have written the same worlds in the meantime.
        if not _written(root, settings):
            raise
