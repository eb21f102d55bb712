"""How the page's files reach a browser: our own from memory, Gradio's with leave to keep them.

Our scripts lie below an address that has a digest of them all in it, so a browser keeps them for
good and an update shows at once. The page names them in its `Link` header: a browser asks for all
of them together while it reads the page, instead of finding one after another by their imports.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Below this path lie style.css and the scripts; the API has no such prefix.
ASSET_PREFIX = "/ui"
# Gradio's files have digests in their names.
_GRADIO_PREFIX = "/assets/"
_FOREVER = "public, max-age=31536000, immutable"
# Not by `mimetypes`: on some machines a registry calls scripts plain text, and none would run.
_SERVED = {".css": "text/css", ".js": "text/javascript"}
# A page is packed for each visit; more effort costs more time than it saves in a local network.
_PAGE_EFFORT = 4


class Assets:
    """An ASGI app: the style and the scripts of a folder as they were when it was made."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's scripts and styles."""
        found = sorted(path for path in folder.iterdir() if path.suffix in _SERVED)
        self._files: Mapping[str, bytes] = {path.name: path.read_bytes() for path in found}
        digest = hashlib.sha256()
        for name, data in self._files.items():
            digest.update(f"{name} {len(data)} ".encode() + data)
        self.digest = digest.hexdigest()[:12]
        self._packed = lru_cache(maxsize=None)(self._pack)

    def link_header(self) -> str:
        """Return a `Link` header for a page whose scripts these are."""
        # Not the style: browsers complain of one that the page comes to only after seconds.
        base = f".{ASSET_PREFIX}/{self.digest}"
        scripts = (name for name in self._files if name.endswith(".js"))
        return ", ".join(f"<{base}/{name}>; rel=modulepreload" for name in scripts)

    def _pack(self, name: str) -> bytes:
        return gzip.compress(self._files[name], mtime=0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `/<digest>/<name>`; with another digest or none a browser has to ask again."""
        await self._answer(Request(scope))(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        *above, name = (
            request.scope["path"].removeprefix(request.scope.get("root_path", "")).split("/")
        )
        if name not in self._files or len(above) > 2:
            return Response(status_code=404)
        is_ours = above[-1:] == [self.digest]
        headers = {
            "Cache-Control": _FOREVER if is_ours else "no-cache",
            "ETag": f'"{self.digest}"',
            "Vary": "Accept-Encoding",
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        data = self._files[name]
        if "gzip" in request.headers.get("accept-encoding", ""):
            data, headers["Content-Encoding"] = self._packed(name), "gzip"
        return Response(data, media_type=_SERVED[Path(name).suffix], headers=headers)


class Delivery:
    """ASGI middleware: hints and packing for the page itself, leave to keep Gradio's files."""

    def __init__(self, app: ASGIApp, link_header: str, theme: str | None = None) -> None:
        """Take the app of the page, the `Link` header of its documents, and their colours.

        Gradio reads `light` or `dark` from the page's address before any script of ours runs, so
        with `theme` an address that names none is answered with one that does.
        """
        self._app = app
        self._theme = theme
        self._link_header = link_header
        self._packing = GZipMiddleware(self._with_hints, compresslevel=_PAGE_EFFORT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if "path" in scope else ""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif path in ("", "/") and self._theme and not _names_theme(scope["query_string"]):
            query = "&".join(
                filter(None, (scope["query_string"].decode("latin-1"), f"__theme={self._theme}"))
            )
            await RedirectResponse(f"?{query}")(scope, receive, send)
        elif path in ("", "/"):
            await self._packing(scope, receive, send)
        elif path.startswith(_GRADIO_PREFIX):
            await self._app(scope, receive, _adding(send, "Cache-Control", _FOREVER))
        else:
            await self._app(scope, receive, send)

    async def _with_hints(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _adding(send, "Link", self._link_header))


def _names_theme(query: bytes) -> bool:
    """Say whether a page's address asks for colours itself."""
    return any(part.startswith(b"__theme=") for part in query.split(b"&"))


def _adding(send: Send, name: str, value: str) -> Send:
    """Return a `send` that gives successful answers one more header."""

    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] in (200, 304):
            MutableHeaders(scope=message)[name] = value
        await send(message)

    return send_with_header
