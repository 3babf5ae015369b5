"""What happens to every request before and after its route: whom it is addressed to, its log line and numbers."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixonomy.serve.logs import log
from mixonomy.serve.metrics import Metrics
from mixonomy.serve.settings import Settings

METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH")
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Around:
    """ASGI middleware; not Starlette's BaseHTTPMiddleware, which takes a task and a queue for every request.

    Args:
      is_last: whether the server stops, so that a client must be told to send no more on this connection.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics, is_last: Callable[[], bool]):
        self.app, self.hosts, self.metrics, self.is_last = app, settings.hosts, metrics, is_last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses one that is not addressed to this server."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {"images": 0, "held": None}

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if self.is_last():
                    headers["connection"] = "close"
            await send(message)

        try:
            await (_refusal(scope, self.hosts) or self.app)(scope, receive, noting)
        finally:
            if state["held"] is not None:
                state["held"].release()
            self._note(scope, status, state["images"], time.perf_counter() - begun)

    def _note(self, scope: Scope, status: int, images: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        log(
            "request",
            level=logging.INFO if status < 500 else logging.WARNING,
            method=scope["method"] if scope["method"] in METHODS else "other",
            route=route,
            status=status,
            images=images,
            ms=ms(seconds),
            client=scope["client"][0] if scope.get("client") else None,
        )


def problem(status: int, message: str, retry_s: int | None = None) -> JSONResponse:
    """An answer that says why there is none."""
    headers = {} if retry_s is None else {"retry-after": str(retry_s)}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": message}, status, headers)


def ms(seconds: float) -> float:
    """Milliseconds, to a hundredth."""
    return round(1000 * seconds, 2)


def _refusal(scope: Scope, hosts: Sequence[str]) -> JSONResponse | None:
    """For a request that came by a name of somebody else's, or from a page of another site."""
    headers = Headers(scope=scope)
    if hosts and _host_of(headers) not in hosts:
        return problem(421, f"this server is not called that; ask for {', '.join(hosts)}.")
    if scope["method"] == "POST" and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return problem(403, "requests from pages of other sites are not answered.")
    return None


def _host_of(headers: Headers) -> str | None:
    """The name in the Host header, without the port."""
    try:
        name = urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return None
    return f"[{name}]" if name and ":" in name else name
