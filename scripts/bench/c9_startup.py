"""C9: from the start of the process to the first answer, the page and the first picture.

One start gives all three: `/internal/ping` is asked until it answers 200, then `/` until it is the
page (a waiting page answers 503), while a job for a tiny checkpoint waits since the first answer.
The peer is what every program of this kind begins with, in a fresh interpreter too. Some
two minutes; on a busy machine fewer rounds are taken, at least three.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from timing import WARM_UPS, Comparison, Row

ROOT = Path(__file__).resolve().parents[2]
PEER = "import torch, diffusers, gradio"
# diffusers imports its classes when they are asked for: what a picture needs beyond the peer's.
WITH_UNET = f"{PEER}; from diffusers import UNet2DConditionModel"
ROUNDS = 7
_FEWEST_ROUNDS = 3
_BUDGET_SECONDS = 200.0
_POLL_SECONDS = 0.01
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process."""

    ping: float
    page: float
    picture: float


def measure() -> list[Row]:
    """Return the three ratios."""
    starts, imports, with_unet = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        make_checkpoint(data)
        began = time.perf_counter()
        for number in range(WARM_UPS + ROUNDS):
            is_late = time.perf_counter() - began > _BUDGET_SECONDS
            if is_late and len(starts) >= _FEWEST_ROUNDS:
                break
            start, imported, more = start_server(data), time_import(PEER), time_import(WITH_UNET)
            if number >= WARM_UPS:
                starts.append(start)
                imports.append(imported)
                with_unet.append(more)
    theirs = tuple(imports)
    peer = f"`python -c '{PEER}'`"
    needed = Comparison(tuple(with_unet), theirs).ratio
    note = (
        f"the peer's imports with diffusers' U-Net class, which a picture needs and its lazy "
        f"import leaves out, come to {needed:.2f}"
    )
    figures: tuple[tuple[str, list[float], float, dict[str, str]], ...] = (
        ("start → first answer of the API", [start.ping for start in starts], 0.20, {}),
        ("start → the page", [start.page for start in starts], 0.60, {}),
        (
            "start → first picture (tiny model)",
            [start.picture for start in starts],
            1.0,
            {"note": note},
        ),
    )
    return [
        Comparison(tuple(seconds), theirs).row("C9", name, peer, target, **details)
        for name, seconds, target, details in figures
    ]


def make_checkpoint(data: Path) -> None:
    """Write a tiny checkpoint where a server with this data folder looks for it."""
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make_tiny_checkpoints.py"),
         str(data / "models" / "Stable-diffusion")],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def time_import(code: str) -> float:
    """Return the seconds that a fresh interpreter takes for some imports."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL, cwd="/")
    return time.perf_counter() - started


def start_server(data: Path) -> Start:
    """Start a server, take its times, stop it."""
    port = free_port()
    command = [
        sys.executable, str(ROOT / "launch.py"), "--skip-install",
        "--data-dir", str(data), "--port", str(port),
    ]  # fmt: skip
    picture: list[float] = []
    with (data / "server.log").open("w+b") as log:
        started = time.perf_counter()
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=dict(os.environ))
        try:
            wait_for(port, "/internal/ping", server)
            ping = time.perf_counter() - started
            client = threading.Thread(
                target=lambda: picture.append(request_picture(port) - started)
            )
            client.start()
            wait_for(port, "/", server)
            page = time.perf_counter() - started
            client.join()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
        if not picture:
            log.seek(0)
            raise RuntimeError(f"no picture came:\n{log.read().decode(errors='replace')}")
    return Start(ping, page, picture[0])


def wait_for(port: int, path: str, server: subprocess.Popen[bytes]) -> None:
    """Ask for a path until it answers 200."""
    deadline = time.perf_counter() + _PATIENCE_SECONDS
    while time.perf_counter() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except (ConnectionError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"{path} did not answer within {_PATIENCE_SECONDS:.0f} s")


def request_picture(port: int) -> float:
    """Have a picture made; return the moment when it was there."""
    body = {"prompt": "a cat", "steps": 4, "width": 64, "height": 64, "seed": 1}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
    connection.request(
        "POST", "/sdapi/v1/txt2img", json.dumps(body), {"Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    content = json.loads(answer.read())
    moment = time.perf_counter()
    connection.close()
    if answer.status != http.HTTPStatus.OK or not content["images"]:
        raise RuntimeError(f"status {answer.status}: {content}")
    return moment


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
