"""A server as users run it, for the scripts beside this file, and a plain HTTP client for it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 900.0
_POLL_SECONDS = 0.02


class Client:
    """One kept-alive connection to a server; not for several threads at once."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of a request; a dict or list is sent as JSON."""
        data = json.dumps(body).encode() if body is not None else None
        try:
            self._connection.request(
                method, path, data, {"Content-Type": "application/json", **(headers or {})}
            )
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            # What comes later on this connection would be the answer to this request.
            self._connection.close()
            raise

    def get(self, path: str) -> Any:
        """Return the JSON of a GET that must succeed."""
        return self.json("GET", path, None)

    def post(self, path: str, body: Any = None) -> Any:
        """Return the JSON of a POST that must succeed."""
        return self.json("POST", path, body if body is not None else {})

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def json(self, method: str, path: str, body: Any) -> Any:
        """Return the JSON of a request that must succeed."""
        status, data = self.ask(method, path, body)
        if not 200 <= status < 300:
            raise RuntimeError(f"{method} {path}: {status} {data[:500]!r}")
        return json.loads(data)


class ServerProcess:
    """A server process; `kill` and `start` again keep port and data, as a crash does."""

    def __init__(
        self,
        data: Path,
        *flags: str,
        command: tuple[str, ...] = (),
        before: Callable[[], object] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            data: the data folder; the log goes beside it, since the folder's disk may be full.
            flags: more flags for the command line.
            command: what is put before the interpreter.
            before: runs in the new process before the interpreter does.
        """
        self.data = data
        self.port = free_port()
        self.log = data.parent / f"{data.name}-server.log"
        self._flags = flags
        self._command = command
        self._before = before
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start, and wait until the API answers."""
        command = [*self._command, sys.executable, "-m", "sdforge", "--nowebui"]
        command += ["--port", str(self.port), "--data-dir", str(self.data), "--use-cpu", "all"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self._flags],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=self._before,
            )
        self._wait_until_it_answers()
        return self

    def client(self) -> Client:
        """Return a connection to the server."""
        return Client(self.port)

    def kill(self) -> None:
        """End the process as a power cut would: no handler of it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """End the server as users do; return its exit status."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.process = None
        return status

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill() if kind else self.stop()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if not self.is_alive:
                raise RuntimeError(f"the server ended:\n{self.last_words()}")
            client = self.client()
            try:
                if client.ask("GET", "/healthz")[0] == http.HTTPStatus.OK:
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(_POLL_SECONDS)
            finally:
                client.close()
        raise RuntimeError(f"the server did not answer:\n{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]


def ask(server: ServerProcess, method: str, path: str, body: Any = None) -> Any:
    """Return the JSON of one request that must succeed, on a connection of its own."""
    client = server.client()
    try:
        return client.json(method, path, body)
    finally:
        client.close()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
