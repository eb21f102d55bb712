"""A model hub on this machine: what Hugging Face answers, for files that tests put there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote


class LoopbackHub(ThreadingHTTPServer):
    """Large files lie at a store that it redirects to, small ones at itself.

    Attributes:
        files: path below the hub → content, as "owner/name/resolve/main/file".
        small: paths that are git's own, named by git's hash and not redirected.
        asked: (path, Range, Authorization) of every request.
        breaks: after how many bytes the next answers of the store end, one for each request.
        store: where it redirects to; "" is itself.
        lies: headers that replace the hub's own; None leaves one out.
        holds: None, or what the store waits for in the middle of a file.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.small: set[str] = set()
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.breaks: list[int] = []
        self.store = ""
        self.lies: dict[str, str | None] = {}
        self.knows_ranges = True
        self.needs_token = ""
        self.holds: threading.Event | None = None
        self.is_halfway = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet about clients that hang up in the middle: tests stop downloads."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, path: str, content: bytes, *, small: bool = False) -> str:
        """Offer a file; return how it is named."""
        owner, name, file = path.split("/", 2)
        self.files[f"{owner}/{name}/resolve/main/{file}"] = content
        if small:
            self.small.add(f"{owner}/{name}/resolve/main/{file}")
        return f"hf:{path}"


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackHub

    def do_GET(self) -> None:
        path = unquote(self.path.lstrip("/"))
        token = self.headers.get("Authorization")
        self.server.asked.append((path, self.headers.get("Range"), token))
        if path.startswith("store/"):
            self._content(self.server.files[path.removeprefix("store/")])
        elif self.server.needs_token and token != f"Bearer {self.server.needs_token}":
            self._head(401, {"Content-Length": "0"})
        elif path not in self.server.files:
            self._head(404, {"Content-Length": "0"})
        elif path in self.server.small:
            content = self.server.files[path]
            named = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self._content(content, {"ETag": f'"{named}"'})
        else:
            content = self.server.files[path]
            said: dict[str, str | None] = {
                "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{self.server.store}/store/{quote(path)}",
                "Content-Length": "0",
            }
            self._head(302, said | self.server.lies)

    def _head(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def _content(self, content: bytes, headers: dict[str, str] | None = None) -> None:
        start = 0
        asked = self.headers.get("Range")
        if asked and self.server.knows_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            said = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self._head(206, {**said, "Content-Length": str(len(content) - start)})
        else:
            self._head(200, {"Content-Length": str(len(content)), **(headers or {})})
        rest = content[start:]
        if self.server.breaks:
            rest = rest[: self.server.breaks.pop(0)]
        if self.server.holds is not None:
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.server.is_halfway.set()
            self.server.holds.wait(60)
            rest = rest[len(rest) // 2 :]
        self.wfile.write(rest)

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


@contextmanager
def serving() -> Iterator[LoopbackHub]:
    """Serve a hub for the time of a `with`."""
    hub = LoopbackHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.holds is not None:
            hub.holds.set()
        hub.shutdown()
        thread.join()
        hub.server_close()
