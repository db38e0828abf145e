"""Batches for training, read by worker processes; the same bits for any number of them."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import product
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from segue.batch import Batch
from segue.datasets.dataset import Dataset
from segue.datasets.sampling import index_at, positions, seed_for
from segue.errors import SegueError
from segue.runtime.cores import available_cores, default_workers
from segue.runtime.prefetch import ahead
from segue.runtime.signals import children_undisturbed

if TYPE_CHECKING:
    from segue.datasets.augmentation import Augmentation

T = TypeVar("T")
_OPEN: set[Any] = set()  # iterators of this process that have reading processes


@dataclass(frozen=True)
class Role:
    """What a dataset is read for, such as source or target.

    Args:
        dataset: where from.
        size: width and height to which images and labels are resized.
        labels: whether labels are read; False opens no label file.
        augment: random changes after resizing, one after the other.
        share: of the dataset, at random by the run's seed; all else is never drawn.
    """

    dataset: Dataset
    size: tuple[int, int]
    labels: bool
    augment: tuple[Augmentation, ...] = ()
    share: float = 1.0


def batches(
    roles: Mapping[str, Role],
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
    device: torch.device | None = None,
) -> Generator[list[dict[str, Batch]], None, None]:
    """For each iteration from `start` to `stop - 1`, its micro batches by role.

    Every sample is a function of (seed, role, its place in the joint batch, iteration), so
    starting anywhere, with any workers, gives what an uninterrupted run gives, and all processes
    together draw the joint batch of one.

    Whoever draws closes the generator on every way out (`contextlib.closing`): that ends the
    reading processes.

    Args:
        roles: by name.
        batch_size: images of each role in a micro batch.
        seed: of the run.
        start: the first iteration.
        stop: the iteration after the last.
        accumulate: micro batches in an iteration, the length of the lists.
        rank: of this process.
        world: how many processes train together.
        workers: reading processes, one pool for all roles; 0 reads in this process, None chooses
            by the cores.
        device: where batches are wanted. Onto a GPU they are copied, as bytes from pinned memory,
            while the one before is in use.

    Raises:
        SegueError: a role has no images or not the labels it wants (at once), a file cannot be
            used or images of one batch differ in size after augmentation (when it is drawn).
    """
    for name, role in roles.items():
        if len(role.dataset) == 0:
            raise SegueError("no images", where=f"{name} ({role.dataset.name})", fix="add some")
        if role.labels and not role.dataset.labelled:
            raise SegueError(
                "labels are wanted, but there are none",
                where=f"{name} ({role.dataset.name})",
                fix="give the dataset its labels",
            )
    if workers is None:
        workers = default_workers(available_cores(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    reader = _Reader(dict(roles), seed, batch_size, accumulate, rank, world)
    draws = _draw(reader, range(start, stop), workers, device)
    if device is None or device.type != "cuda":
        return draws
    return _one_ahead(draws, stop - start)


def _one_ahead(draws: Generator[T, None, None], count: int) -> Generator[T, None, None]:
    """The same, each drawn and sent to the GPU while the one before is in use."""
    with closing(draws):
        if count:
            yield next(draws)  # torch watches over reading processes that the main thread started
        with closing(ahead(lambda _: next(draws), range(count - 1))) as rest:
            yield from rest


@dataclass(frozen=True)
class _Read:
    """A batch as it travels between processes: bytes, a quarter of the floats' size."""

    image: Tensor  # [B, 3, H, W] uint8
    label: Tensor | None  # [B, H, W] uint8
    names: tuple[str, ...]

    def batch(self, device: torch.device | None) -> Batch:
        image, label = (_sent(bytes_, device) for bytes_ in (self.image, self.label))
        assert image is not None
        whole = None if label is None else label.long()
        return Batch(image.float().div_(255), whole, names=self.names)


def _sent(tensor: Tensor | None, device: torch.device | None) -> Tensor | None:
    """On a GPU without waiting for the copy; elsewhere as it is."""
    if tensor is None or device is None or device.type != "cuda":
        return tensor
    # A thread's own current device may be another, where pinning would take up memory.
    with torch.cuda.device(device):
        return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class _Reader(TorchDataset[Any]):
    """Reads the micro batch of every role for an (iteration, micro batch)."""

    roles: dict[str, Role]
    seed: int
    batch_size: int
    accumulate: int
    rank: int
    world: int

    def __getitem__(self, key: tuple[int, int]) -> dict[str, _Read] | SegueError:
        # DataLoader would bury an exception's one line under a traceback, a value it leaves alone
        try:
            return {name: self._read(name, role, key) for name, role in self.roles.items()}
        except SegueError as error:
            return error

    def _read(self, name: str, role: Role, key: tuple[int, int]) -> _Read:
        places = positions(
            *key,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            rank=self.rank,
            world=self.world,
        )
        length = len(role.dataset)
        indices = [index_at(self.seed, name, place, length, role.share) for place in places]
        samples = [
            _sample(role, index, seed_for(self.seed, name, "augment", place))
            for index, place in zip(indices, places, strict=True)
        ]
        sizes = sorted({tuple(image.shape[1:]) for image, _ in samples})
        if len(sizes) > 1:
            raise SegueError(
                f"images of one batch are {' and '.join(f'{w}x{h}' for h, w in sizes)} after "
                "augmentation",
                where=name,
                fix="let `random_crop` be the last of `augment`",
            )
        labels = [label for _, label in samples if label is not None]
        return _Read(
            torch.stack([image for image, _ in samples]),
            torch.stack(labels) if labels else None,
            tuple(str(role.dataset.items[index].image) for index in indices),
        )


def _sample(role: Role, index: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """One image [3, H, W] and label [H, W] of bytes, augmented."""
    image = _tensor(role.dataset.image(index, role.size)).permute(2, 0, 1).contiguous()
    label = _tensor(role.dataset.label(index, role.size)) if role.labels else None
    if not role.augment:
        return image, label
    from segue.datasets.augmentation import augment  # torchvision takes workers long to import

    return augment(image, label, role.augment, seed)


def _tensor(array: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(array)


def _draw(
    reader: _Reader, iterations: range, workers: int, device: torch.device | None
) -> Generator[list[dict[str, Batch]], None, None]:
    keys = product(iterations, range(reader.accumulate))
    reads = (reader[key] for key in keys) if workers == 0 else _pool(reader, keys, workers)
    # closed here, the pool ends at once; left to the garbage collector, torch waits for workers
    with closing(reads):
        for _ in iterations:
            micro_batches = []
            for _ in range(reader.accumulate):
                read = next(reads)
                if isinstance(read, SegueError):
                    raise read
                micro_batches.append({name: part.batch(device) for name, part in read.items()})
            yield micro_batches


def _pool(
    reader: _Reader, keys: Iterable[tuple[int, int]], workers: int
) -> Generator[dict[str, _Read] | SegueError, None, None]:
    with warnings.catch_warnings():
        # more workers than cores is the user's choice
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader: DataLoader[Any] = DataLoader(
            reader,
            batch_size=None,
            sampler=keys,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_start_worker,
            multiprocessing_context=_context(reader),
            generator=torch.Generator(),  # training's own generator must not move
        )
    with _without_main(), children_undisturbed():
        reads: Any = iter(loader)
    _OPEN.add(reads)
    try:
        yield from _reads(reads)
    finally:
        # What an exception still refers to, the garbage collector would not end in time: Python
        # waits at its end for children that ignore its signals.
        reads._shutdown_workers()
        _OPEN.discard(reads)


def _reads(reads: Iterator[Any]) -> Iterator[dict[str, _Read] | SegueError]:
    while True:
        try:
            read = next(reads)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise SegueError(
                "a process that reads images ended before its time",
                where="workers",
                fix="mostly memory or a container's /dev/shm is full: give more, or set workers "
                "to 0",
            ) from error
        yield read


@atexit.register  # before that of multiprocessing, which was registered earlier
def _end_all() -> None:
    """Ends the reading processes of whoever did not close what it drew from."""
    for reads in list(_OPEN):
        reads._shutdown_workers()


def _context(reader: _Reader) -> BaseContext:
    """How workers are started.

    Not by fork: training has threads by then (OpenMP's, CUDA's, TensorBoard's), whose locks a
    forked child may wait for forever, and Python from 3.12 on warns of it. The fork server has no
    threads, and imports torch once for all workers of all pools.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    augmented = any(role.augment for role in reader.roles.values())
    needed = [__name__, "segue.datasets.augmentation"] if augmented else [__name__]
    context.set_forkserver_preload(needed)
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """Keeps workers from running the user's script once more, which they need nothing of.

    Python's would, so that scripts need a guard and those from standard input cannot start any.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _as_it_is(read: Any) -> Any:
    return read


def _start_worker(worker: int) -> None:
    del worker  # torch passes its number
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # torch's own watch is on the fork server, which lives as long as its workers do: without this,
    # training that is killed leaves them all behind.
    threading.Thread(target=_end_with_training, daemon=True).start()


def _end_with_training() -> None:
    training = multiprocessing.parent_process()
    if training is not None:
        training.join()
        os._exit(1)
