"""Which images a training step sees: a function of the seed and the iteration, without state."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def positions(
    iteration: int,
    micro: int,
    *,
    batch_size: int,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
) -> range:
    """The places in the endless row of samples that one micro batch of one process takes.

    The micro batches of all processes together are the next `accumulate * world * batch_size`
    places, so how a joint batch is split changes nothing about what is in it.

    Args:
        iteration: of training, from 0.
        micro: which of the `accumulate` micro batches, from 0.
        batch_size: images in a micro batch.
        accumulate: micro batches in a step.
        rank: of this process.
        world: how many processes.

    Example:
        >>> [list(positions(1, 0, batch_size=2, rank=rank, world=2)) for rank in (0, 1)]
        [[4, 5], [6, 7]]
    """
    start = iteration * accumulate * world * batch_size + (micro * world + rank) * batch_size
    return range(start, start + batch_size)


def index_at(seed: int, role: str, position: int, length: int, share: float = 1.0) -> int:
    """Which of `length` images lies at a place of the endless row: one permutation per epoch.

    Args:
        seed: of the stage.
        role: what is drawn for, such as source.
        position: the place.
        length: of the dataset.
        share: the part of the dataset, drawn once by the seed, that the row goes through.

    Example:
        >>> sorted(index_at(0, "source", position, 4) for position in range(4, 8))
        [0, 1, 2, 3]
        >>> len({index_at(0, "source", position, 100, 0.03) for position in range(50)})
        3
    """
    drawn = drawn_of(length, share)
    epoch, place = divmod(position, drawn)
    chosen = int(_permutation(seed, role, epoch, drawn)[place])
    return (
        chosen if drawn == length else int(_permutation(seed, f"{role} share", 0, length)[chosen])
    )


def drawn_of(length: int, share: float) -> int:
    """How many of `length` images a share is, one at least.

    Example:
        >>> drawn_of(300, 0.03), drawn_of(10, 0.03)
        (9, 1)
    """
    return max(1, round(share * length))


def seed_for(*parts: int | str) -> int:
    """A seed of 63 bits that differs wherever a part differs.

    Example:
        >>> seed_for(1, "source", 23) == seed_for(12, "source", 3)
        False
    """
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@lru_cache(maxsize=8)  # the current one of each role
def _permutation(seed: int, role: str, epoch: int, length: int) -> NDArray[np.int64]:
    generator = np.random.Generator(np.random.PCG64(seed_for(seed, role, epoch)))
    return generator.permutation(length)
