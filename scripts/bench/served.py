"""An ASGI application on a real port of this process, for the benchmarks that go over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


@contextmanager
def served(app: Any) -> Iterator[int]:
    """Serve an application; give its port."""
    # Kept alive between the rounds, however long the other side's takes.
    config = uvicorn.Config(
        app, port=0, log_config=None, access_log=False, lifespan="off", timeout_keep_alive=3600
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


class Connection:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def get(self, path: str) -> bytes:
        """Return the body of an answer that must be good."""
        return self._ask("GET", path, None)[0]

    def post(self, path: str, body: Any) -> tuple[bytes, str]:
        """Return the body of an answer that must be good, and its X-Job-Id."""
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, method: str, path: str, body: str | None) -> tuple[bytes, str]:
        headers = {"Content-Type": "application/json"}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path}: {answer.status} {data[:300]!r}")
        return data, answer.headers.get("X-Job-Id") or ""

    def close(self) -> None:
        """Close it."""
        self._connection.close()
