"""The queue over the API: order, pausing, trying again, idempotency keys, jobs without waiting."""

from __future__ import annotations

from typing import Any

import pytest

from sdforge.engine import JobStatus
from tests.api.conftest import Server, StartServer, small
from tests.api.contract.fields import PICTURE
from tests.engine.fakes import PATIENCE


def queued(server: Server, *names: str, **query: Any) -> None:
    for name in names:
        body = small(prompt=name, force_task_id=name)
        answer = server.client.post("/api/v1/jobs/txt2img", json=body, params=query)
        assert answer.status_code == 202, answer.text
        assert answer.json()["id"] == name


def waiting(server: Server) -> list[str]:
    return [job["id"] for job in server.client.get("/api/v1/queue").json()["waiting"]]


def test_jobs_are_queued_at_once_and_run_in_their_order(server: Server) -> None:
    post = server.client.post
    assert post("/api/v1/queue/pause").json()["paused"] is True
    queued(server, "a", "b", "c")
    queued(server, "first", priority=10)
    assert waiting(server) == ["first", "a", "b", "c"]
    moved = post("/api/v1/jobs/c/place", json={"index": 1}).json()
    assert [job["id"] for job in moved["waiting"]] == ["first", "c", "a", "b"]
    assert post("/api/v1/jobs/b/place", json={"priority": 11}).status_code == 200
    assert waiting(server) == ["b", "first", "c", "a"]
    assert post("/api/v1/jobs/a/cancel").json()["status"] == "cancelled"
    assert post("/api/v1/queue/resume").json()["paused"] is False
    assert server.engine.wait("c", PATIENCE).status is JobStatus.DONE
    assert server.runner.ran == ["b", "first", "c"]


def test_img2img_jobs_are_queued_too(server: Server) -> None:
    body = small(init_images=[PICTURE])
    job = server.client.post("/api/v1/jobs/img2img", json=body).json()
    assert server.engine.wait(job["id"], PATIENCE).kind == "img2img"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("jobs/nobody/place", {"index": 0}, 404),
        ("jobs/nobody/place", {}, 404),
        ("jobs/nobody/retry", None, 404),
        ("jobs/txt2img?priority=101", {}, 422),
        ("jobs/txt2img", {"steps": "many"}, 422),
        ("jobs/txt2img?webhook=http://127.0.0.1/", {}, 422),
        ("jobs/img2img", {}, 404),
    ],
)
def test_what_cannot_be_is_refused(
    shared_server: Server, path: str, body: Any, status: int
) -> None:
    answer = shared_server.client.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "detail", "body", "errors", "message"}


def test_all_waiting_jobs_can_be_cancelled(server: Server) -> None:
    server.client.post("/api/v1/queue/pause")
    queued(server, "a", "b")
    assert server.client.post("/api/v1/queue/clear").json() == {"cancelled": ["a", "b"]}
    assert waiting(server) == []


def test_a_job_is_tried_again(server: Server) -> None:
    server.draw(force_task_id="one", seed=-1)
    again = server.client.post("/api/v1/jobs/one/retry")
    assert again.status_code == 202
    body = again.json()
    assert body["retry_of"] == "one"
    assert body["request"] == server.client.get("/api/v1/jobs/one").json()["request"]
    answer = server.client.post("/api/v1/jobs/one/retry", params={"rest": True})
    assert answer.status_code == 422


def test_the_same_key_draws_once(server: Server) -> None:
    headers = {"Idempotency-Key": "mine"}

    def post(**payload: Any) -> Any:
        return server.client.post("/sdapi/v1/txt2img", json=small(**payload), headers=headers)

    first, second = post(seed=-1), post(seed=-1)
    assert first.status_code == second.status_code == 200
    assert first.json()["images"] == second.json()["images"]
    assert first.headers["X-Job-Id"] == second.headers["X-Job-Id"]
    assert len(server.runner.ran) == 1
    assert post(seed=5).status_code == 422
    queued_once = [
        server.client.post(
            "/api/v1/jobs/txt2img", json=small(seed=-1), headers={"Idempotency-Key": "b"}
        )
        for _ in range(2)
    ]
    assert queued_once[0].json()["id"] == queued_once[1].json()["id"]


def test_too_many_waiting_jobs_are_refused(start_server: StartServer) -> None:
    server = start_server(max_queued_jobs=2)
    server.client.post("/api/v1/queue/pause")
    queued(server, "a", "b")
    answer = server.client.post("/api/v1/jobs/txt2img", json=small())
    assert answer.status_code == 429
    assert "max_queued_jobs" in answer.json()["errors"]
