"""Many processes as one: started by torchrun, agreed after every backward pass.

Gradients and buffers are averaged here, explicitly, and nowhere else: a discriminator that runs
forward twice before its backward pass lets ranks drift apart inside DistributedDataParallel with
no error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from segue.errors import SegueError
from segue.runtime.cores import available_cores, training_threads

BUCKET = 32 * 2**20
# How long a process waits for another. torch's 10 minutes (NCCL) and 30 (gloo) end a run in which
# one process meanwhile fits groups, draws a page or reads larger images. A process that dies is
# found by torchrun at once, whatever is set here.
PATIENCE = timedelta(days=1)

AGREE_EVERY = 100  # iterations after which processes compare their weights
_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

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
    """Joins the processes that torchrun started, or stays alone; again, it is where it was.

    Args:
        device: `auto` takes a GPU where there is one; else a torch device.

    Raises:
        SegueError: the device does not exist here, there are fewer GPUs than processes, or another
            process ended before all had joined.
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
        chosen = _own_gpu(local)
    if size > 1 and not distributed.is_initialized():
        # With its GPU named, NCCL does not have to guess it at the first barrier.
        on_gpu = chosen.type == "cuda"
        with _together(rank):
            distributed.init_process_group(
                "nccl" if on_gpu else "gloo", timeout=PATIENCE, device_id=chosen if on_gpu else None
            )
    if "OMP_NUM_THREADS" not in os.environ:
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        torch.set_num_threads(training_threads(available_cores(), local_size))
    return World(rank, size, chosen)


def _own_gpu(local: int) -> torch.device:
    """The GPU of the process with this number on its machine.

    Raises:
        SegueError: there are fewer.
    """
    visible = torch.cuda.device_count()
    # SLURM may show each process a GPU of its own, where torchrun shows all to all.
    if visible == 1 and not distributed.is_torchelastic_launched():
        local = 0
    if local >= visible:
        raise SegueError(
            f"process {local} of this machine has no GPU of its own, there are {visible}",
            where="device",
            fix=f"give torchrun --nproc-per-node={visible}, or use device=cpu",
        )
    chosen = torch.device("cuda", local)
    torch.cuda.set_device(chosen)
    return chosen


def meet(world: World) -> None:
    """Waits until every process is here."""
    if world.size > 1:
        with _together():
            distributed.barrier()


@contextmanager
def _together(rank: int | None = None) -> Iterator[None]:
    """Tells in one line that another process ended while this one waited for it.

    Args:
        rank: this process's number, asked for where it is not given.

    Raises:
        SegueError: it did.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SegueError(
            f"another process of this run ended or cannot be reached ({told[:200]})",
            where=f"process {distributed.get_rank() if rank is None else rank}",
            fix="its own message says why; the same command again goes on from the last checkpoint",
        ) from error


def leave() -> None:
    """Takes leave of the other processes, for good: torch cannot join the same ones again.

    The last thing of a process, and only where nothing failed: on an error others may still wait.
    """
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
        with _together():
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
    with _together():
        distributed.all_gather_object(gathered, value)
    return gathered


def spread(modules: Iterable[nn.Module], world: World) -> None:
    """Gives every process the weights and buffers of the first."""
    if world.size > 1:
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                with _together():
                    distributed.broadcast(tensor.detach(), 0)


def largest(value: int, world: World) -> int:
    """The largest of the processes' numbers."""
    if world.size == 1:
        return value
    shared = torch.tensor(value, device=world.device)
    with _together():
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return int(shared)


def refuse_disagreement(modules: Mapping[str, nn.Module], world: World) -> None:
    """Looks whether every process holds the same weights and buffers, to the bit.

    Sums of their bits are compared, which takes a pass over the weights: a faulty memory or link
    is found within `AGREE_EVERY` iterations, and nothing is saved after it.

    Raises:
        SegueError: they differ; the same in every process.
    """
    if world.size == 1:
        return
    sums = torch.stack([sum_of_bits(module).to(world.device) for module in modules.values()])
    ends = torch.cat([sums, -sums])
    with _together():
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
    most, least = ends.chunk(2)
    apart = [name for name, one in zip(modules, (most != -least).tolist(), strict=True) if one]
    if apart:
        raise SegueError(
            f"the processes' weights of {', '.join(apart)} have come apart",
            fix="a GPU, its memory or a link is faulty, or a term draws at random by itself; the "
            "same command again goes on from the last checkpoint, where they were one",
        )


def sum_of_bits(module: nn.Module) -> Tensor:
    """The sum of the bit patterns of a module's weights and buffers, read as whole numbers."""
    total = torch.zeros((), dtype=torch.int64)
    for tensor in (*module.parameters(), *module.buffers()):
        bits = tensor.detach().view(_WHOLE[tensor.element_size()])
        total = total.to(bits.device) + bits.sum(dtype=torch.int64)
    return total
