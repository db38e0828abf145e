"""Many processes as one: started by torchrun, agreed after every backward pass.

Gradients and buffers are averaged here, explicitly, and nowhere else: a discriminator that runs
forward twice before its backward pass lets ranks drift apart inside DistributedDataParallel with
no error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from segue.datasets.workers import available_cores, training_threads
from segue.errors import SegueError

BUCKET = 32 * 2**20

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """This process among its peers.

    Args:
        rank: its number.
        size: how many there are.
        device: where its networks live.

    Example:
        >>> World().leads
        True
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0


def join(device: str = "auto") -> World:
    """Joins the processes that torchrun started, or stays alone.

    Args:
        device: `auto` takes a GPU where there is one; else a torch device.

    Raises:
        SegueError: the device does not exist here.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(kind)
    except RuntimeError:
        raise SegueError(
            f"no such device: {kind}", where="device", fix="try auto, cpu or cuda"
        ) from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise SegueError("no GPU is visible", where="device", fix="use device=cpu or device=auto")
    if chosen.type == "cuda" and size > 1:
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if size > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    if "OMP_NUM_THREADS" not in os.environ:
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        torch.set_num_threads(training_threads(available_cores(), local_size))
    return World(rank, size, chosen)


def meet(world: World) -> None:
    """Waits until every process is here."""
    if world.size > 1:
        distributed.barrier()


def leave() -> None:
    """Takes leave of the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def average_gradients(modules: Iterable[nn.Module], world: World) -> None:
    """Replaces every gradient by its mean over the processes."""
    parameters = [p for module in modules for p in module.parameters() if p.grad is not None]
    average([p.grad for p in parameters if p.grad is not None], world)


def average_buffers(modules: Iterable[nn.Module], world: World) -> None:
    """Replaces running statistics by their mean over the processes."""
    average([b for module in modules for b in module.buffers() if b.is_floating_point()], world)


def average(tensors: list[Tensor], world: World) -> None:
    """Replaces tensors, in place, by their means over the processes, a bucket at a time."""
    if world.size == 1:
        return
    for bucket in buckets(tensors):
        flat = torch.cat([tensor.detach().flatten() for tensor in bucket])
        distributed.all_reduce(flat)
        flat /= world.size
        parts = torch.split(flat, [tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.detach().copy_(part.view_as(tensor))


def buckets(tensors: list[Tensor], size: int = BUCKET) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one type, together at most about `size` bytes.

    Example:
        >>> [len(bucket) for bucket in buckets([torch.zeros(4)] * 5, size=32)]
        [2, 2, 1]
    """
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(one.nbytes for one in bucket) + tensor.nbytes > size
        if bucket and (full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def gather(value: T, world: World) -> list[T]:
    """What every process gives, in order of rank; plain values."""
    if world.size == 1:
        return [value]
    gathered: list[Any] = [None] * world.size
    distributed.all_gather_object(gathered, value)
    return gathered


def spread(modules: Iterable[nn.Module], world: World) -> None:
    """Gives every process the weights and buffers of the first."""
    if world.size > 1:
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                distributed.broadcast(tensor.detach(), 0)
