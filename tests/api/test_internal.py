"""What the page polls."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import Server
from tests.engine.fakes import a_request

KEYS = {
    "active", "queued", "completed", "progress", "eta", "live_preview", "id_live_preview",
    "textinfo",
}  # fmt: skip


def progress(server: Server, job_id: str, **more: Any) -> dict[str, Any]:
    answer = server.client.post("/internal/progress", json={"id_task": job_id} | more)
    body: dict[str, Any] = answer.json()
    assert set(body) == KEYS
    return body


def test_ping_answers(server: Server) -> None:
    assert server.client.get("/internal/ping").json() == {}


def test_an_unknown_job_is_waited_for(server: Server) -> None:
    body = progress(server, "task(not yet)")
    assert (body["active"], body["queued"], body["completed"]) == (False, False, False)
    assert body["textinfo"] == "Waiting..."


def test_a_running_job_shows_each_preview_once(server: Server) -> None:
    server.runner.gate_step = 2
    server.engine.submit(a_request(), job_id="one")
    assert server.runner.reached.acquire(timeout=10)
    body = progress(server, "one")
    assert (body["active"], body["queued"], body["completed"]) == (True, False, False)
    assert 0.4 < body["progress"] < 0.6
    assert body["live_preview"] == "data:image/jpeg;base64,Ag=="
    known = body["id_live_preview"]
    again = progress(server, "one", id_live_preview=known)
    assert (again["live_preview"], again["id_live_preview"]) == (None, known)
    assert progress(server, "one", live_preview=False)["live_preview"] is None


def test_a_page_that_asks_for_it_hears_what_changes_in_the_job(server: Server) -> None:
    server.runner.gate_step = 2
    server.engine.submit(a_request(), job_id="one")
    assert server.runner.reached.acquire(timeout=10)
    question = {"id_task": "one", "with_job": True}
    told = server.client.post("/internal/progress", json=question).json()["job"]
    whole = server.client.get("/api/v1/jobs/one").json()
    same = ("status", "cancel_requested", "progress")
    assert {name: told[name] for name in same} == {name: whole[name] for name in same}
    assert (told["status"], told["pictures"]) == ("running", 0)
    unknown = {"id_task": "none", "with_job": True}
    assert "job" not in server.client.post("/internal/progress", json=unknown).json()


def test_waiting_jobs_know_their_place(server: Server) -> None:
    server.runner.gate_step = 1
    for name in ("one", "two", "three"):
        server.engine.submit(a_request(), job_id=name)
    assert server.runner.reached.acquire(timeout=10)
    body = progress(server, "three")
    assert (body["queued"], body["active"], body["textinfo"]) == (True, False, "In queue: 3/3")
    pending = server.client.get("/internal/pending-tasks").json()
    assert pending == {"size": 3, "tasks": ["one", "two", "three"]}


def test_a_finished_job_is_completed(server: Server) -> None:
    server.draw(force_task_id="one")
    body = progress(server, "one")
    assert (body["active"], body["completed"], body["live_preview"]) == (False, True, None)


def test_a_question_without_a_job_is_answered(server: Server) -> None:
    assert server.client.post("/internal/progress", json={}).status_code == 200


def test_quick_settings_have_labels(server: Server) -> None:
    hints = server.client.get("/internal/quicksettings-hint").json()
    assert {"name": "CLIP_stop_at_last_layers", "label": "Clip skip"} in hints
