"""A port of this machine, and a server there until it is told to stop."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from segue.errors import SegueError
from segue.runtime import signals as stopping

EVERYWHERE = ("0.0.0.0", "::")
LEAVE = 5  # seconds that requests get to end in
CONNECTIONS = 128


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens, before time is spent on loading models.

    Raises:
        SegueError: the port is in use or not allowed, or the host is none of this machine's.
    """
    where = f"{host}:{port}"
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        fix = "give an address of this machine, as 127.0.0.1"
        raise SegueError("no such host", where=where, fix=fix) from error
    with listener:
        # Without it a port stays taken for a minute after its last connection.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
            listener.listen(CONNECTIONS)
        except OSError as error:
            used = error.errno == errno.EADDRINUSE
            told = "the port is in use" if used else f"cannot listen ({error.strerror or error})"
            fix = "choose another --port (0 takes any that is free)"
            raise SegueError(told, where=where, fix=fix) from error
        yield listener


def address(host: str, listener: socket.socket) -> str:
    """What to open in a browser."""
    name = socket.gethostname() if host in EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}/"


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM; what runs then may end, what waits is refused."""
    # uvicorn ends well and then passes the signal on.
    with suppress(stopping.Stopped, KeyboardInterrupt):
        server_of(app).run(sockets=[listener])


def server_of(app: FastAPI) -> uvicorn.Server:
    """What `run` runs."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=LEAVE,
    )
    return uvicorn.Server(config)
