"""One log line per request (`--api-log`) and the header `X-Process-Time`, as in A1111."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class RequestCounts:
    """How many requests each route has answered with which status, and in how many seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[tuple[str, str], float] = {}

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        with self._lock:
            self._counts[method, route, status] += 1
            before = self._seconds.get((method, route), 0.0)
            self._seconds[method, route] = before + seconds

    def counts(self) -> dict[tuple[str, str, int], int]:
        """Return (method, route, status) → number."""
        with self._lock:
            return dict(self._counts)

    def seconds(self) -> dict[tuple[str, str], float]:
        """Return (method, route) → seconds until the answers began, in all."""
        with self._lock:
            return dict(self._seconds)


class AccessLog:
    """Measures the seconds until an answer begins."""

    def __init__(self, app: ASGIApp, enabled: bool, counts: RequestCounts) -> None:
        self.app = app
        self.enabled = enabled
        self.counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note what came of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def measure(message: Message) -> None:
            if message["type"] == "http.response.start":
                taken = time.perf_counter() - began
                seconds = f"{taken:.4f}"
                # The route and not the path, of which there are as many as there are jobs.
                route = getattr(scope.get("route"), "path", "(none)")
                method = scope["method"] if scope["method"] in _METHODS else "(other)"
                self.counts.add(method, route, message["status"], taken)
                MutableHeaders(scope=message)["X-Process-Time"] = seconds
                if self.enabled:
                    _write_line(scope, message["status"], seconds)
            await send(message)

        await self.app(scope, receive, measure)


def _write_line(scope: Scope, status: int, seconds: str) -> None:
    client = scope.get("client") or ("-", 0)
    # repr keeps control characters of a path from forging log lines.
    log.info("API %s http/%s %s %r %s %s", status, scope.get("http_version", "1.1"),
             scope["method"], scope["path"], client[0], seconds)  # fmt: skip
