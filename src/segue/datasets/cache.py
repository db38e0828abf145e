"""A cache of decoded and resized images and labels: raw bytes, one file for each set and size.

A store's name holds the fingerprint of everything that decides its bytes, so that what is found
under it is right or is not there. It gets its name only once it is whole.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from io import TextIOWrapper
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import PIL
from numpy.typing import NDArray

from segue.datasets.files import state
from segue.errors import SegueError
from segue.runtime.prefetch import ahead

if TYPE_CHECKING:
    from segue.datasets.dataset import Dataset

Half = Literal["images", "labels"]

FORMAT = 2  # of a store's bytes and of how they are made; 2 turns what EXIF says
RESIZED = {"images": "PIL bicubic", "labels": "PIL nearest"}
SAVED_EVERY = 2**28  # bytes: what an interruption may cost


@dataclass(frozen=True)
class Store:
    """Images or labels of one dataset at one size, one after the other as raw bytes.

    Args:
        path: the file.
        shape: [N, H, W, 3] of images, [N, H, W] of labels.
    """

    path: Path
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """How large the file is."""
        return prod(self.shape)

    @property
    def partial(self) -> Path:
        """Where it grows."""
        return self.path.with_suffix(".partial")

    @property
    def whole(self) -> bool:
        """Whether it can be read."""
        try:
            return self.path.stat().st_size == self.nbytes
        except FileNotFoundError:
            return False

    def read(self, index: int) -> NDArray[np.uint8] | None:
        """One image or label; None where there is no store.

        Raises:
            SegueError: the file was cut short after it was written.
        """
        one = prod(self.shape[1:])
        try:
            # Not mapped: one large read instead of a page fault for every few of its bytes, and
            # nothing that a process would have to keep or hand to another.
            found = np.fromfile(self.path, np.uint8, one, offset=index * one)
        except FileNotFoundError:
            return None
        if found.size < one:
            raise SegueError("the cache is cut short", where=self.path, fix="delete this file")
        return found.reshape(self.shape[1:])


@dataclass(frozen=True)
class Cache:
    """Where a dataset's images and labels lie decoded and resized, at the sizes there are.

    Args:
        folder: of all stores.
        name: of the dataset.
        length: images in the dataset.
        images: fingerprint of the images; None where they are not to be looked for.
        labels: fingerprint of the labels; likewise.
    """

    folder: Path
    name: str
    length: int
    images: str | None
    labels: str | None

    def store(self, half: Half, size: tuple[int, int]) -> Store | None:
        """The images or labels at `size` = (width, height), whether they are there or not."""
        told = self.images if half == "images" else self.labels
        if told is None:
            return None
        width, height = size
        plain = re.sub(r"[^\w.-]", "_", self.name)
        shape = (self.length, height, width, *((3,) if half == "images" else ()))
        return Store(self.folder / f"{plain}-{half}-{width}x{height}-{told}.raw", shape)

    def image(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """RGB [H, W, 3], or None where it is not kept."""
        store = self.store("images", size)
        return None if store is None else store.read(index)

    def label(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Train ids [H, W], or None where they are not kept."""
        store = self.store("labels", size)
        return None if store is None else store.read(index)


def cached(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset, read from a cache where that has it; nothing is written.

    Fingerprints cover names, sizes and times of the files (in ZIP files their checksums), how they
    are resized, the range of the images, Pillow's version and, for labels, what becomes of raw
    ids. Labels that are not to be read are not looked at.
    """
    images = _fingerprint(dataset, "images")
    labels = _fingerprint(dataset, "labels") if dataset.labelled else None
    return replace(
        dataset, cache=Cache(folder, dataset.name, len(dataset), images=images, labels=labels)
    )


def _fingerprint(dataset: Dataset, half: Half) -> str:
    digest = blake2b(repr((FORMAT, half, RESIZED[half], PIL.__version__)).encode(), digest_size=8)
    if half == "images":
        digest.update(repr(dataset.range).encode())
    if half == "labels":
        digest.update(repr((dataset.unknown, dataset.sizes_differ)).encode())
        digest.update(dataset.ids.tobytes())
    for item in dataset.items:
        # Of labels the image counts too: they must be of one size.
        for path in (item.image, item.label) if half == "labels" else (item.image,):
            if path is not None:
                digest.update(repr((str(path.absolute()), state(path))).encode())
    return digest.hexdigest()


def fill(
    store: Store,
    read: Callable[[int], NDArray[np.uint8]],
    *,
    threads: int,
    progress: Callable[[int], object],
) -> None:
    """Writes a store from what `read` gives for each index, going on where it was interrupted.

    One process at a time: see `locked`.

    Args:
        store: what to write.
        read: an image or label by its index, decoded and resized.
        threads: how many read at once.
        progress: called with how many are written.

    Raises:
        SegueError: a file cannot be read, or the disk is full.
    """
    length, one = store.shape[0], prod(store.shape[1:])
    saved = store.path.with_suffix(".saved")
    done = _saved(store, saved)
    progress(done)
    every = max(1, SAVED_EVERY // one)
    with _told(store), store.partial.open("r+b" if done else "wb") as file:
        file.truncate(done * one)
        file.seek(done * one)
        for array in ahead(read, range(done, length), most=2 * threads, threads=threads):
            file.write(np.ascontiguousarray(array).data)
            done += 1
            if done % every == 0 or done == length:
                file.flush()
                os.fsync(file.fileno())
                saved.write_text(str(done))
            progress(done)
        store.partial.replace(store.path)
        saved.unlink()


def _saved(store: Store, saved: Path) -> int:
    """How many images are surely on disk."""
    try:
        done = int(saved.read_text())
        return done if done * prod(store.shape[1:]) <= store.partial.stat().st_size else 0
    except (FileNotFoundError, ValueError):
        return 0


@contextmanager
def _told(store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SegueError(
            error.strerror or str(error),
            where=store.path,
            fix="make room and run again: the cache goes on where it stopped",
        ) from error


@contextmanager
def locked(folder: Path, wait: Callable[[], object]) -> Iterator[None]:
    """Keeps other processes, of this run and of others, from writing to a cache meanwhile.

    Args:
        folder: of the cache; made if it is not there.
        wait: called once if another process has it, before waiting for that.

    Raises:
        SegueError: the folder cannot be written to, or its file system knows no locks.
    """
    file = _lock(folder, wait)
    try:
        yield
    finally:
        file.close()


def _lock(folder: Path, wait: Callable[[], object]) -> TextIOWrapper:
    if sys.platform == "win32":
        raise SegueError("Windows has no locks for it", where="data.cache", fix="leave it out")
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise SegueError(
            f"the cache cannot be locked ({error.strerror or error})",
            where=folder,
            fix="set data.cache to a folder on a disk of this machine",
        ) from error
    return file
