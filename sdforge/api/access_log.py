"""One log line per request (`--api-log`) and the header `X-Process-Time`, as in A1111."""

from __future__ import annotations

import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)


class AccessLog:
    """Measures the seconds until an answer begins."""

    def __init__(self, app: ASGIApp, enabled: bool) -> None:
        self.app = app
        self.enabled = enabled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note what came of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def measure(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = f"{time.perf_counter() - began:.4f}"
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
