"""Signals that end a run at a good moment: the end of an iteration, its state saved."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import FrameType

# SLURM's, torchrun's and `kill`'s, a terminal's, and the one that batch scripts ask SLURM for.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
)
INSIST = 1.0  # seconds after which a second Ctrl-C means now


class Stopped(BaseException):
    """A run was ended by a signal. Nothing that handles errors is to take it for one.

    Args:
        number: of the signal.
        when: what was reached and saved.
        command: what goes on.

    Example:
        >>> print(Stopped(15, "saved after iteration 20 of train"))
        SIGTERM: saved after iteration 20 of train; the same command again goes on
        >>> Stopped(15).exit_code
        143
    """

    def __init__(
        self, number: int, when: str = "stopped", *, command: str = "the same command again"
    ) -> None:
        self.number = number
        super().__init__(f"{signal.Signals(number).name}: {when}; {command} goes on")

    @property
    def exit_code(self) -> int:
        """What shells give a process that this signal ended."""
        return 128 + self.number


@dataclass
class _Heard:
    number: int = 0
    at: float = 0.0
    waits: bool = False


_heard = _Heard()  # signals belong to the process, and so does what was heard of them


def received() -> int:
    """The signal that asks to stop, 0 for none."""
    return _heard.number


@contextmanager
def listening() -> Iterator[None]:
    """Turns signals into `Stopped`, raised at once, or by `postponed` at a better moment.

    Signals that the process was started to ignore, as nohup does, stay ignored; threads other than
    the main one cannot listen.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _hear) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _heard.number = 0  # it has been obeyed: what this process runs next is not to end by it


@contextmanager
def postponed() -> Iterator[None]:
    """Keeps signals for later: what runs inside asks `received` and raises `Stopped` itself.

    A second Ctrl-C is not kept.
    """
    _heard.waits = True
    try:
        yield
    finally:
        _heard.waits = False
    if _heard.number:
        raise Stopped(_heard.number)


@contextmanager
def children_undisturbed() -> Iterator[None]:
    """Processes started inside get none of these signals, which may go to a whole group.

    Ctrl-C in a terminal does, and so does SLURM: the processes that read images must live for as
    long as training wants them. With it they end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # As it starts it lifts the mask of whoever starts it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hear(number: int, frame: FrameType | None) -> None:
    del frame  # Python passes it
    # torchrun and SLURM may both send one signal: only a person insists.
    insists = number == signal.SIGINT == _heard.number and time.monotonic() - _heard.at > INSIST
    if not _heard.waits or insists:
        raise Stopped(number)
    if not _heard.number:
        _heard.number, _heard.at = number, time.monotonic()
