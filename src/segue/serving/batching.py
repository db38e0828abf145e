"""Requests that arrive while the network is busy, run together as its next batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """One thread that runs a function on all that waits for it, up to `most` at once.

    Nobody waits for a batch to fill: what is alone runs alone. Where a batch fails, each of its
    items is tried by itself, so that one does not spoil the others.

    Args:
        function: gives one result for each item, in their order.
        most: items of a batch.

    Example:
        >>> batcher = Batcher(lambda numbers: [2 * number for number in numbers], most=4)
        >>> batcher.submit(21).result()
        42
        >>> batcher.close()
    """

    def __init__(self, function: Callable[[Sequence[Item]], Sequence[Result]], most: int) -> None:
        self.most = most
        self.batches = 0  # run so far
        self.seconds = 0.0  # that the last batch took
        self._function = function
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="segue network", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Result]:
        """The item's result, once it is there; a future that is cancelled in time costs nothing."""
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
            else:
                self._waiting.append((item, future))
                self._changed.notify()
        return future

    def close(self) -> None:
        """Cancels all that waits, and returns when the batch that runs is done."""
        with self._changed:
            self._closed = True
            for _, future in self._waiting:
                future.cancel()
            self._waiting.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            start = time.perf_counter()
            self._run(batch)
            self.seconds = time.perf_counter() - start

    def _next(self) -> list[tuple[Item, Future[Result]]]:
        """What runs next, nothing at the end."""
        batch: list[tuple[Item, Future[Result]]] = []
        with self._changed:
            while not batch and not self._closed:
                while self._waiting and len(batch) < self.most:
                    item, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((item, future))
                if not batch:
                    self._changed.wait()
        return batch

    def _run(self, batch: list[tuple[Item, Future[Result]]]) -> None:
        self.batches += 1
        try:
            results = self._function([item for item, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for one in batch:
                self._run([one])
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
