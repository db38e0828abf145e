"""Processes for tests, forked from one that has imported everything: torch takes seconds to import.

That one, multiprocessing's fork server, has no threads, so that what it forks may train and join
others. It also starts the processes that read images, once it runs.
"""

import contextlib
import multiprocessing
import os
import random
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from unittest import mock

PRELOADED = [
    "segue.running.run",
    "segue.predicting",
    "segue.running.sweep",
    "torch.distributed",
    "tiny",
]
SECONDS = 240  # that a process may take


def prepare() -> None:
    """Starts the server, unless there is one."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


def start(
    task: Callable[..., object],
    *arguments: object,
    told: Mapping[str, object] | None = None,
    said: Path | None = None,
) -> BaseProcess:
    """Starts a process that calls a function of a module, the leader of a group of its own.

    Args:
        task: the function.
        arguments: what it is given.
        told: environment variables, besides those there are.
        said: where its output (.out) and errors (.err) are appended.
    """
    environment = {**os.environ, **{name: str(value) for name, value in (told or {}).items()}}
    process = multiprocessing.get_context("forkserver").Process(
        target=_begin, args=(task, arguments, environment, said)
    )
    # Or it would run what these tests were started by once more.
    with mock.patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
        process.start()
    return process


def _begin(
    task: Callable[..., object],
    arguments: Sequence[object],
    environment: Mapping[str, str],
    said: Path | None,
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    if said is not None:
        for number, kind in ((1, "out"), (2, "err")):
            path = said.with_name(f"{said.name}.{kind}")
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    task(*arguments)


def ended(*processes: BaseProcess) -> list[int | None]:
    """The exit codes of processes, once they have ended."""
    try:
        for process in processes:
            process.join(SECONDS)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


def ranks(
    size: int, task: Callable[..., object], *arguments: object, said: Path | None = None
) -> list[BaseProcess]:
    """Starts processes that are told what torchrun would tell them."""
    told = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    told["MASTER_PORT"] = free_port()
    return [
        start(task, *arguments, told={**told, "RANK": rank, "LOCAL_RANK": rank}, said=said)
        for rank in range(size)
    ]


def free_port() -> int:
    """A port of this machine that no one listens at, and that no one is given meanwhile.

    The system gives those from 32768 on to whoever connects, as tests side by side do.
    """
    chance = random.SystemRandom()  # tests seed the other one, all alike
    while True:
        with contextlib.suppress(OSError), socket.socket() as listening:
            listening.bind(("127.0.0.1", chance.randrange(15000, 32000)))
            return int(listening.getsockname()[1])
