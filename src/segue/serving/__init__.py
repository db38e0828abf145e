"""A page on this machine that shows what a model makes of an image, and answers for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import SegueError
from segue.exporting.needs import need

if TYPE_CHECKING:
    from rich.console import Console


def serve(
    model: str | Path,
    *,
    before: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    megabytes: float = 20,
    megapixels: float = 25,
    waiting: int = 16,
    console: Console | None = None,
) -> None:
    """Serves the page until Ctrl-C or SIGTERM.

    Args:
        model: whatever `segue.load` takes.
        before: a model to compare it with, as one that was not adapted.
        host: the address to listen at; others than this machine reach it where it is not loopback.
        port: 0 takes any that is free.
        device: `auto` takes a GPU where there is one; else a torch device.
        megabytes: of an upload, at most.
        megapixels: of an image, at most.
        waiting: images that are sent, wait or are worked on at once.
        console: where to tell the page's address; None keeps silent.

    Raises:
        SegueError: an extra is not installed, no model is there, the two tell different classes
            apart, or the address cannot be had.
    """
    need("serve", "fastapi", "uvicorn", "python_multipart")
    from segue.runtime.processes import join
    from segue.serving.app import create_app
    from segue.serving.listening import address, bound, run
    from segue.serving.served import Served, title
    from segue.serving.uploads import Limits
    from segue.work_dir import load

    with bound(host, port) as listener:
        if before is not None and Path(before).resolve() == Path(model).resolve():
            raise SegueError("is the model itself", where="--before", fix="name another model")
        on = join(device).device
        served = Served(
            load(model, on),
            title(model),
            None if before is None else load(before, on),
            None if before is None else title(before),
        )
        app = create_app(served, Limits(megabytes, megapixels, waiting), host=host)
        if console is not None:
            told = f"{address(host, listener)}  Ctrl-C ends it"
            console.print(told, highlight=False, soft_wrap=True)
            console.file.flush()  # where it goes to a file
        run(app, listener)
    if console is not None:
        console.print("stopped", highlight=False)
