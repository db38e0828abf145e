"""Who may ask: pages from elsewhere must not use a server on this machine."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def guarded(app: ASGIApp, host: str) -> ASGIApp:
    """Refuses requests that other sites send, and adds `HEADERS` to every response.

    A page elsewhere may let its own name point here (DNS rebinding); the Host header gives it away,
    for only names can be rebound. Forms that it sends here carry its Origin.

    Args:
        app: what is guarded.
        host: where it listens; a name is known by it.
    """
    names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        asked, origin = headers.get("host", ""), headers.get("origin")
        if not is_known(asked, names):
            told = {"error": "this name is not served; use localhost or the address in numbers"}
            await JSONResponse(told, 421)(scope, receive, send_with_headers)
        elif origin is not None and urlsplit(origin).netloc.lower() != asked.lower():
            told = {"error": "pages of other sites may not ask here"}
            await JSONResponse(told, 403)(scope, receive, send_with_headers)
        else:
            await app(scope, receive, send_with_headers)

    return call


def is_known(host: str, names: set[str]) -> bool:
    """Whether a Host header holds an address in numbers or one of these names.

    Example:
        >>> [is_known(one, {"localhost"}) for one in ("localhost:80", "[::1]:80", "evil.example")]
        [True, True, False]
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name not in names:
            ip_address(name)
    except ValueError:
        return False
    return True
