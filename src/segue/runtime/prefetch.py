"""Reads files while what was read before is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    read: Callable[[T], R], items: Iterable[T], *, most: int = 1, threads: int = 1
) -> Generator[R, None, None]:
    """What `read` gives for each item in order, up to `most` of the next being read meanwhile.

    Example:
        >>> list(ahead(lambda index: index**2, range(3)))
        [0, 1, 4]
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as reader:
        for item in items:
            waiting.append(reader.submit(read, item))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
