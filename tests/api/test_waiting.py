"""Waiting for jobs over real sockets: clients that leave, clients that listen."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn

from sdforge.engine import JobStatus
from tests.api.conftest import Server, small
from tests.engine.fakes import a_request


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """Address of `server` behind uvicorn."""
    # With its protocol named: asyncio sets TCP_NODELAY on such sockets only.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(server.app, log_config=None, lifespan="off")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        running.should_exit = True
        server.runner.gate.set()
        thread.join(10)


def eventually(condition: Callable[[], bool]) -> bool:
    """Tell whether a condition comes true within some seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_client_that_hangs_up_does_not_stop_its_job(server: Server, url: str) -> None:
    server.runner.gate_step = 2
    client = HTTPConnection(urlsplit(url).netloc)
    client.request("POST", "/sdapi/v1/txt2img", json.dumps(small(force_task_id="left")))
    assert server.runner.reached.acquire(timeout=10)
    client.close()
    time.sleep(0.1)
    server.runner.gate.set()
    assert server.engine.wait("left", 10).status is JobStatus.DONE
    assert httpx.get(f"{url}/api/v1/jobs/left/images/0").status_code == 200


def test_events_arrive_while_the_job_runs(server: Server, url: str) -> None:
    server.runner.gate_step = 2
    server.engine.submit(a_request(), job_id="one")
    seen = ""
    with httpx.stream("GET", f"{url}/api/v1/jobs/one/events", timeout=10) as stream:
        for chunk in stream.iter_text():
            seen += chunk
            if '"step": 2, "steps": 4' in seen and not server.runner.gate.is_set():
                assert server.engine.get("one").status is JobStatus.RUNNING
                server.runner.gate.set()
    assert '"status": "done"' in seen


def test_a_listener_that_leaves_is_forgotten(server: Server, url: str) -> None:
    server.runner.gate_step = 2
    server.engine.submit(a_request(), job_id="one")
    assert server.runner.reached.acquire(timeout=10)
    log = server.engine._queue.event_log("one")
    with httpx.stream("GET", f"{url}/api/v1/jobs/one/events", timeout=10) as stream:
        chunks = stream.iter_text()
        next(chunks)
        assert eventually(lambda: len(log._listeners) == 1)
    assert eventually(lambda: not log._listeners)


def test_progress_answers_quickly_while_many_requests_wait(server: Server, url: str) -> None:
    # Starlette has 40 threads for handlers; a request that held one would block the others.
    server.runner.gate_step = 1
    limits = httpx.Limits(max_connections=60)
    with ThreadPoolExecutor(48) as pool, httpx.Client(timeout=30, limits=limits) as client:
        waiting = [
            pool.submit(client.post, f"{url}/sdapi/v1/txt2img", json=small()) for _ in range(48)
        ]
        assert eventually(lambda: len(server.engine.jobs()) == 48)
        began = time.monotonic()
        for _ in range(10):
            assert client.get(f"{url}/sdapi/v1/progress").json()["state"]["job_count"] == 1
        assert time.monotonic() - began < 5
        server.runner.gate_step = None
        server.runner.gate.set()
        assert {future.result(timeout=30).status_code for future in waiting} == {200}
