"""Our own routes: jobs, pictures, events, status."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sdforge.api.waiting import job_events
from sdforge.core.events import JobEvent, PreviewReady
from sdforge.output.metadata import read_infotext
from tests.api.conftest import Server, StartServer
from tests.engine.fakes import a_request


def finished(server: Server, job_id: str = "one", **values: Any) -> dict[str, Any]:
    """Run a job and return the API's description of it."""
    server.engine.submit(a_request(**values), job_id=job_id, save_images=False)
    server.engine.wait(job_id, 10)
    body: dict[str, Any] = server.client.get(f"/api/v1/jobs/{job_id}").json()
    return body


@pytest.fixture
def held(server: Server) -> Iterator[str]:
    """Id of a job that stands at its second step of four."""
    server.runner.gate_step = 2
    server.engine.submit(a_request(), job_id="held")
    assert server.runner.reached.acquire(timeout=10)
    yield "held"
    server.runner.gate.set()


def read_events(server: Server, path: str, **headers: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Return (number, kind, data) of all events of a stream that ends."""
    answer = server.client.get(path, headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.strip().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.splitlines())
        if "event" in fields:
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


def test_a_job_is_described_whole(server: Server) -> None:
    body = finished(server, prompt="an owl", batch_size=2)
    assert (body["id"], body["status"], body["error"]) == ("one", "done", None)
    assert body["request"]["prompt"] == "an owl"
    assert body["progress"]["fraction"] == 1.0
    assert [image["index"] for image in body["images"]] == [0, 1]
    assert {"url", "infotext", "seed", "width", "height", "path"} <= set(body["images"][0])
    assert body["created_at"] <= body["started_at"] <= body["finished_at"]


def test_a_picture_is_served_as_a_file(server: Server) -> None:
    url = finished(server, job_id="task(a b)", prompt="an owl")["images"][0]["url"]
    answer = server.client.get(url)
    assert answer.headers["content-type"] == "image/png"
    assert read_infotext(answer.content).startswith("an owl")


def test_a_grid_is_described_and_served_too(server: Server) -> None:
    server.draw(batch_size=2, save_images=True, force_task_id="one")
    grid = server.client.get("/api/v1/jobs/one").json()["grid"]
    assert (grid["index"], grid["width"], grid["url"]) == (-1, 128, "/api/v1/jobs/one/images/-1")
    assert server.client.get(grid["url"]).headers["content-type"] == "image/png"


def test_pictures_urls_respect_the_subpath(server: Server) -> None:
    finished(server)
    server.client.app.root_path = "/forge"  # type: ignore[attr-defined]
    body = server.client.get("/forge/api/v1/jobs/one").json()
    assert body["images"][0]["url"] == "/forge/api/v1/jobs/one/images/0"


def test_jobs_are_listed_newest_first_and_filtered(server: Server) -> None:
    for name in ("one", "two", "three"):
        finished(server, job_id=name, prompt="raise" if name == "two" else "a cat")
    listed = server.client.get("/api/v1/jobs?limit=2").json()
    assert [job["id"] for job in listed] == ["three", "two"]
    failed = server.client.get("/api/v1/jobs?status=failed").json()
    assert [job["id"] for job in failed] == ["two"]
    assert "the fake broke" in failed[0]["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/jobs/none",
        "/api/v1/jobs/none/events",
        "/api/v1/jobs/none/preview",
        "/api/v1/jobs/none/images/0",
        "/api/v1/jobs/one/images/1",
    ],
)
def test_what_does_not_exist_is_404(server: Server, path: str) -> None:
    finished(server)
    answer = server.client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"] == "NotFound"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999", "status=sleeping"])
def test_wrong_queries_are_named(shared_server: Server, query: str) -> None:
    answer = shared_server.client.get(f"/api/v1/jobs?{query}")
    assert answer.status_code == 422
    assert query.split("=")[0] in answer.json()["errors"]


def test_a_running_job_has_a_preview_and_can_be_cancelled(server: Server, held: str) -> None:
    preview = server.client.get(f"/api/v1/jobs/{held}/preview")
    assert (preview.content, preview.headers["content-type"]) == (bytes([2]), "image/jpeg")
    body = server.client.post(f"/api/v1/jobs/{held}/cancel").json()
    assert body["cancel_requested"] is True
    server.runner.gate.set()
    assert server.engine.wait(held, 10).status.value == "cancelled"


def test_a_waiting_job_is_cancelled_alone(server: Server, held: str) -> None:
    server.engine.submit(a_request(), job_id="waiting")
    assert server.client.get("/api/v1/jobs/waiting").json()["queue_position"] == 1
    assert server.client.get("/api/v1/jobs/waiting/preview").status_code == 204
    body = server.client.post("/api/v1/jobs/waiting/cancel").json()
    assert body["status"] == "cancelled"
    assert server.client.get(f"/api/v1/jobs/{held}").json()["status"] == "running"


def test_a_batch_is_skipped(server: Server) -> None:
    server.runner.gate_step = 1
    server.engine.submit(a_request(batch_count=2), job_id="one")
    assert server.runner.reached.acquire(timeout=10)
    assert server.client.post("/api/v1/jobs/one/skip").status_code == 200
    server.runner.gate.set()
    assert server.engine.wait("one", 10).status.value == "done"


def test_events_of_a_finished_job_are_replayed_in_order_and_end(server: Server) -> None:
    finished(server)
    events = read_events(server, "/api/v1/jobs/one/events")
    numbers = [number for number, _, _ in events]
    kinds = [kind for _, kind, _ in events]
    assert numbers == sorted(numbers)
    assert kinds[:2] == ["JobQueued", "JobStarted"]
    assert kinds.count("StepDone") == 4
    assert (kinds[-1], events[-1][2]["status"]) == ("JobFinished", "done")


@pytest.mark.parametrize("by", ["header", "query"])
def test_events_go_on_where_a_client_was(server: Server, by: str) -> None:
    finished(server)
    everything = read_events(server, "/api/v1/jobs/one/events")
    seen = everything[4][0]
    if by == "header":
        rest = read_events(server, "/api/v1/jobs/one/events", **{"Last-Event-ID": str(seen)})
    else:
        rest = read_events(server, f"/api/v1/jobs/one/events?after={seen}")
    assert rest == everything[5:]


def test_events_of_a_running_job_come_live_with_heartbeats(
    server: Server, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def opening(*arguments: Any) -> AsyncIterator[JobEvent | None]:
        async for event in job_events(*arguments):
            yield event
            if event is None:
                server.runner.gate.set()

    monkeypatch.setattr("sdforge.api.jobs.HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("sdforge.api.jobs.job_events", opening)
    text = server.client.get(f"/api/v1/jobs/{held}/events").text
    before, after = text.split('"step": 2, "steps": 4', 1)
    assert ": nothing new" in after
    assert "JobFinished" in after


def test_previews_in_events_are_pictures_that_a_page_can_show(server: Server, held: str) -> None:
    server.engine.cancel(held)
    stream = server.engine.events(held)
    preview = next(event for event in stream if isinstance(event.event, PreviewReady))
    from sdforge.api.jobs import format_event

    fields = dict(line.partition(": ")[::2] for line in format_event(preview).decode().split("\n"))
    assert json.loads(fields["data"]) == {"step": 2, "image": "data:image/jpeg;base64,Ag=="}


def test_previews_can_be_left_out_of_the_events(server: Server, held: str) -> None:
    threading.Timer(0.1, server.runner.gate.set).start()
    kinds = {kind for _, kind, _ in read_events(server, f"/api/v1/jobs/{held}/events?previews=0")}
    assert "StepDone" in kinds
    assert "PreviewReady" not in kinds


def test_status_tells_what_runs_and_waits(server: Server, held: str) -> None:
    server.engine.submit(a_request())
    status = server.client.get("/api/v1/status").json()
    assert (status["running"], status["queued"], status["version"]) == (held, 1, "0.0-test")
    assert set(status["model"]) == {"title", "loading", "fraction", "error"}
    assert status["ready"] is True


def test_readiness_follows_the_checkpoint(start_server: StartServer) -> None:
    server = start_server()
    assert server.client.get("/healthz").json()["status"] == "ok"
    assert server.client.get("/readyz").status_code == 200
    gate = threading.Event()
    server.runner.preload = lambda *_: gate.wait(10)  # type: ignore[method-assign,assign,return-value]
    server.engine.preload("tiny")
    for _ in range(500):
        if server.engine.model_state()["loading"]:
            break
        threading.Event().wait(0.01)
    assert server.client.get("/readyz").status_code == 503
    assert server.client.get("/healthz").status_code == 200
    gate.set()
