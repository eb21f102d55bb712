"""A server as users run it: a process of its own, on a free port and a folder of the test's."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 120


class LiveServer:
    """A server process; `stop`, `kill` and `start` keep port and data, as a restart does."""

    def __init__(self, data: Path, *, page: bool = True, further: Sequence[str] = ()) -> None:
        """`further` are flags beside those that every such server has."""
        self.data = data
        self.further = further
        self.page = page
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start and wait until the page, or the API without one, answers."""
        command = [sys.executable, "-m", "sdforge", "--port", str(self.port)]
        command += ["--data-dir", str(self.data), "--use-cpu", "all"]
        command += [*self.further, *([] if self.page else ["--nowebui"])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (self.data / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        if self.page:
            self.until(lambda: b"<gradio-app" in self.read("/"))
        else:
            self.until(lambda: self.get("/internal/ping") == {})

    def stop(self) -> None:
        """End it as the user does."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def read(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=TIMEOUT_SECONDS) as answer:
            data: bytes = answer.read()
            return data

    def get(self, path: str) -> Any:
        return json.loads(self.read(path))

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def draw(self, **values: Any) -> bytes:
        """Return the first picture of a txt2img call that must succeed."""
        status, body = self.post("/sdapi/v1/txt2img", {"prompt": "a cat", "steps": 2} | values)
        assert status == 200, body
        return base64.b64decode(body["images"][0])

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; a server that is not up yet counts as no."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                pytest.fail(f"the server ended:\n{self.log()[-3000:]}")
            try:
                if condition():
                    return
            except OSError:
                pass
            time.sleep(0.05)
        pytest.fail(f"waited in vain; the log says:\n{self.log()[-3000:]}")

    def log(self) -> str:
        return (self.data / "server.log").read_text(encoding="utf-8", errors="replace")

    def saved(self) -> list[Path]:
        """Return the pictures on disk."""
        return sorted((self.data / "outputs").rglob("*.png"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
