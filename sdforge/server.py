"""One ASGI application for everything: the API at once, the page when it has been built.

Importing gradio takes seconds, so the page is built in the background and a small waiting page
stands in for it meanwhile. Passwords and the checks of `api.security` are applied here to what the
API does not guard itself. `launcher` makes the parts.
"""

from __future__ import annotations

import html
import time
from collections.abc import Awaitable, Callable, Mapping
from string import Template
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdforge.api.app import PREFIXES
from sdforge.api.security import Access, SecurityMiddleware

# Whether a server is alive may be asked without a password; that tells nothing else.
_OPEN_PATHS = ("/healthz", "/readyz")


class Page(Protocol):
    """The page: an ASGI app with a life of its own, which begins on the server's loop."""

    async def start(self) -> None:
        """Start what the page needs on the running loop."""

    async def stop(self) -> None:
        """End it."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""


class Server:
    """Sends each request to the API or to the page."""

    def __init__(
        self, api: ASGIApp, *, flags: Mapping[str, Any], on_start: Callable[[], None]
    ) -> None:
        """Serve the API alone until `set_page`; `on_start` is called when requests are accepted.

        Raises:
            ValueError: the flags' user names and passwords cannot be read.
        """
        self._api = api
        self._access = Access.from_flags(flags)
        self._root_path = "/" + subpath if (subpath := (flags["subpath"] or "").strip("/")) else ""
        self._on_start = on_start
        self._with_page = not flags["nowebui"]
        self._page: Page | None = None
        self._guarded_page: ASGIApp | None = None
        self._failure = ""
        self._began = time.monotonic()

    async def set_page(self, page: Page) -> None:
        """Serve a page from now on; to be called on the server's loop."""
        await page.start()
        self._guarded_page = SecurityMiddleware(page, self._access)
        self._page = page

    def set_failure(self, reason: str) -> None:
        """Show why there is no page."""
        self._failure = reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of any kind, the server's own lifespan included."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path = self._below_root(scope)
        if refusal := self._ask_for_password(scope, path):
            await _refuse(refusal, scope, receive, send)
            return
        await self._app_for(path)(scope, receive, send)

    def _below_root(self, scope: Scope) -> str:
        """Set the scope's root path; return the path below it, which routing goes by.

        A reverse proxy may have left the subpath in the request's path or taken it out.
        """
        path: str = scope["path"]
        root = self._root_path
        if not root:
            return path
        scope["root_path"] = root
        if path == root or path.startswith(root + "/"):
            return path[len(root) :] or "/"
        scope["path"] = root + path
        return path

    def _app_for(self, path: str) -> ASGIApp:
        if not self._with_page or is_api_path(path):
            return self._api
        return self._guarded_page or self._waiting_page()

    def _ask_for_password(self, scope: Scope, path: str) -> Response | None:
        """Return the refusal of a request that needs a password and lacks the right one."""
        if not self._access.credentials or path in _OPEN_PATHS:
            return None
        headers = Headers(scope=scope)
        preflight = scope.get("method") == "OPTIONS" and "access-control-request-method" in headers
        # The API refuses what is its own, in A1111's form; a preflight never carries a password.
        api_refuses_itself = is_api_path(path) and not path.startswith("/internal")
        if preflight or api_refuses_itself:
            return None
        address = (scope.get("client") or ("-", 0))[0]
        refusal = self._access.refusal(headers.get("authorization"), address)
        if refusal is None:
            return None
        status, text, more = refusal
        return PlainTextResponse(text, status, dict(more))

    def _waiting_page(self) -> ASGIApp:
        seconds = f"{time.monotonic() - self._began:.0f}"
        text = self._failure or f"The page is being built; {seconds} s so far."
        pause = 60 if self._failure else 1
        body = _WAITING_PAGE.substitute(text=html.escape(text), seconds=pause)
        return HTMLResponse(body, 503, {"Retry-After": "1", "Cache-Control": "no-store"})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._on_start()
                await send({"type": "lifespan.startup.complete"})
            else:
                if self._page is not None:
                    await self._page.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def is_api_path(path: str) -> bool:
    """Tell whether a path is the API's."""
    return path.startswith(PREFIXES)


async def _refuse(refusal: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        closing: Message = {"type": "websocket.close", "code": 1008}
        await send(closing)
        return
    await refusal(scope, receive, send)


_WAITING_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="$seconds">
<title>sdforge is starting</title>
<style>
body { font: 16px system-ui, sans-serif; display: grid; place-content: center; height: 90vh;
  text-align: center; color-scheme: light dark }
i { width: 2em; height: 2em; margin: auto; border: 3px solid #8886; border-top-color: #8888;
  border-radius: 50%; animation: turn 1s linear infinite }
@keyframes turn { to { rotate: 1turn } }
</style>
</head>
<body><i></i><p>$text</p><p>The API answers already: <a href="docs">docs</a></p></body>
</html>
""")
