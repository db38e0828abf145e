"""What is answered: the page, and predictions for it and for programs."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from math import ceil
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from segue.serving.batching import Batcher
from segue.serving.guard import guarded
from segue.serving.served import Answer, Pixels, Served, shares
from segue.serving.uploads import FORMATS, NAMES, Limits, RefusalError, Room, decoded, received

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
GONE = 499  # whoever asked has left; nobody reads it


@dataclass
class _Service:
    """One model for all requests, with room for a few of them.

    Args:
        served: the models.
        limits: of uploads.
    """

    served: Served
    limits: Limits
    room: Room = field(init=False)
    batcher: Batcher[Pixels, Answer] = field(init=False)

    def __post_init__(self) -> None:
        self.room = Room(self.limits.waiting)
        self.batcher = Batcher(self.served.answers, self.limits.together)

    async def answer(self, request: Request) -> Answer:
        """What the models say of the image of a request."""
        with self.room.entered(after=max(1, ceil(self.batcher.seconds))):
            data, name = await received(request, self.limits)
            image = await asyncio.to_thread(
                decoded, data, name, self.limits, self.served.after.range
            )
            del data
            asked = asyncio.wrap_future(self.batcher.submit(image))
            left = asyncio.ensure_future(_disconnected(request))
            either: list[asyncio.Future[Any]] = [asked, left]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not asked.done():
                    raise ClientDisconnect
                if asked.cancelled():
                    raise RefusalError(503, "the server stops")
                return asked.result()
            finally:
                asked.cancel()
                left.cancel()


async def _disconnected(request: Request) -> None:
    """Returns when whoever asked has left; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(served: Served, limits: Limits, *, host: str = "127.0.0.1") -> FastAPI:
    """The page and its interface, as docs/serving.md tells.

    Args:
        served: the models; they are run by one thread, whoever asks.
        limits: of uploads.
        host: where it listens; requests that call it by another name are refused.
    """
    service = _Service(served, limits)

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        del app  # FastAPI passes it
        yield
        service.batcher.close()

    # Its own pages of documentation would load scripts from elsewhere.
    app = FastAPI(title="Segue", lifespan=living, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(guarded, host=host)
    _add_errors(app)
    _add_files(app)
    _add_interface(app, service)
    return app


def _add_files(app: FastAPI) -> None:
    folder = resources.files("segue.serving") / "templates"
    for path, (name, kind) in FILES.items():
        app.add_api_route(path, _sender((folder / name).read_bytes(), kind))


def _sender(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(content, media_type=kind)

    return send


def _add_interface(app: FastAPI, service: _Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "waiting": service.room.inside,
            "batches": service.batcher.batches,
        }

    @app.get("/model")
    async def model() -> dict[str, Any]:
        return description(service.served, service.limits)

    @app.post("/labels")
    async def labels(request: Request) -> Response:
        answer = await service.answer(request)
        return Response(await asyncio.to_thread(png, answer.after), media_type="image/png")

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        start = time.perf_counter()
        answer = await service.answer(request)
        told = await asyncio.to_thread(described, answer, service.served)
        return told | {"seconds": round(time.perf_counter() - start, 3)}


def _add_errors(app: FastAPI) -> None:
    def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusalError)
        after = {} if error.after is None else {"Retry-After": str(int(error.after))}
        return JSONResponse({"error": str(error)}, error.status, after)

    def unknown(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=GONE)

    def failed(_: Request, error: Exception) -> Response:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        full = full or "allocate memory" in str(error)  # so torch tells it on the CPU
        told = (
            "the image does not fit the memory" if full else "prediction failed; see the terminal"
        )
        return JSONResponse({"error": told}, 500)

    app.add_exception_handler(RefusalError, refused)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(Exception, failed)


def description(served: Served, limits: Limits) -> dict[str, Any]:
    """What is served, for the page."""
    space = served.label_space
    device = served.after.models[0].device
    return {
        "name": served.name,
        "before": served.before_name,
        "label_space": space.name,
        "classes": space.classes,
        "colours": space.colours,
        "networks": [{"size": model.size, "policy": model.policy} for model in served.after.models],
        "device": device.type,
        "formats": [f"image/{name.lower()}" for name in FORMATS],
        "formats_named": NAMES,
        "megabytes": limits.megabytes,
        "megapixels": limits.megapixels,
    }


def described(answer: Answer, served: Served) -> dict[str, Any]:
    """An answer as JSON: sizes, and of each model its labels and the share of each class."""
    height, width = answer.after.shape
    told: dict[str, Any] = {"width": width, "height": height, "before": None, "changed": None}
    told["after"] = _labelled(answer.after, served)
    if answer.before is not None:
        told["before"] = _labelled(answer.before, served)
        told["changed"] = float((answer.before != answer.after).mean())
    return told


def _labelled(label: Pixels, served: Served) -> dict[str, Any]:
    encoded = base64.b64encode(png(label)).decode("ascii")
    return {"labels": encoded, "shares": shares(label, served.label_space)}


def png(label: Pixels) -> bytes:
    """Train ids as a grey PNG of 8 bits, as `segue predict` writes it."""
    file = io.BytesIO()
    Image.fromarray(label).save(file, "PNG")
    return file.getvalue()
