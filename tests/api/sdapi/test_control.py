"""Progress, interrupt and skip."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.api.conftest import Server

STATE_KEYS = {
    "skipped", "interrupted", "stopping_generation", "job", "job_count", "job_timestamp", "job_no",
    "sampling_step", "sampling_steps",
}  # fmt: skip


@contextmanager
def drawing(server: Server, at_step: int, **payload: Any) -> Iterator[Future[dict[str, Any]]]:
    """Run a job that stands at a step while the block runs, and let it go afterwards."""
    server.runner.gate_step = at_step
    with ThreadPoolExecutor() as pool:
        future = pool.submit(server.draw, **payload)
        try:
            assert server.runner.reached.acquire(timeout=10)
            yield future
        finally:
            server.runner.gate.set()


def progress(server: Server, query: str = "") -> dict[str, Any]:
    answer = server.client.get(f"/sdapi/v1/progress{query}")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    assert set(body) == {"progress", "eta_relative", "state", "current_image", "textinfo"}
    assert set(body["state"]) == STATE_KEYS
    return body


def test_an_idle_server_reports_zero(server: Server) -> None:
    body = progress(server)
    assert (body["progress"], body["eta_relative"], body["current_image"]) == (0.0, 0.0, None)
    assert body["state"]["job_count"] == 0
    assert body["state"]["job"] == ""


def test_a_running_job_reports_its_step_and_a_preview(server: Server) -> None:
    with drawing(server, at_step=2, steps=4):
        body = progress(server)
    assert 0.5 <= body["progress"] <= 0.52
    state = body["state"]
    assert (state["sampling_step"], state["sampling_steps"]) == (2, 4)
    assert (state["job_no"], state["job_count"]) == (0, 1)
    assert len(state["job_timestamp"]) == 14
    assert base64.b64decode(body["current_image"]) == bytes([2])


def test_batches_are_counted(server: Server) -> None:
    with drawing(server, at_step=1, steps=2, n_iter=3):
        state = progress(server)["state"]
    assert (state["job"], state["job_no"], state["job_count"]) == ("Batch 1 out of 3", 0, 3)


def test_the_preview_can_be_left_out(server: Server) -> None:
    with drawing(server, at_step=2, steps=4):
        assert progress(server, "?skip_current_image=true")["current_image"] is None


def test_previews_can_be_switched_off_for_a_job(server: Server) -> None:
    with drawing(server, at_step=2, override_settings={"live_previews_enable": False}):
        assert progress(server)["current_image"] is None


def test_progress_is_zero_again_when_the_job_is_done(server: Server) -> None:
    server.draw()
    assert progress(server)["progress"] == 0.0


def test_a_checkpoint_that_loads_counts_as_busy(server: Server) -> None:
    held = threading.Event()
    load = server.runner._load

    def slow_load(title: str, emit: Any) -> None:
        held.wait(10)
        load(title, emit)

    server.runner._load = slow_load  # type: ignore[method-assign]
    server.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "tiny"})
    while not server.engine.model_state()["loading"]:
        threading.Event().wait(0.01)
    body = progress(server)
    assert (body["progress"], body["state"]["job_count"]) == (0.01, -1)
    held.set()
    while server.engine.model_state()["loading"]:
        threading.Event().wait(0.01)
    assert progress(server)["progress"] == 0.0


def test_interrupt_is_visible_before_the_job_ends(server: Server) -> None:
    with drawing(server, at_step=1) as future:
        server.client.post("/sdapi/v1/interrupt")
        assert progress(server)["state"]["interrupted"] is True
    assert future.result(timeout=10)["images"]


def test_skip_ends_one_batch_only(server: Server) -> None:
    with drawing(server, at_step=1, n_iter=3, steps=5) as future:
        answer = server.client.post("/sdapi/v1/skip")
        assert (answer.status_code, answer.json()) == (200, None)
    body = future.result(timeout=10)
    assert len(body["images"]) == 3
    assert len(json.loads(body["info"])["all_seeds"]) == 3


def test_interrupt_and_skip_without_a_job_do_nothing(server: Server) -> None:
    assert server.client.post("/sdapi/v1/interrupt").json() == {}
    assert server.client.post("/sdapi/v1/skip").json() is None
    assert len(server.draw()["images"]) == 1
