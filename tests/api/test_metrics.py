"""The server's numbers."""

from __future__ import annotations

import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sdforge.core.log_context import JobFilter, working_on
from tests.api.conftest import Server, small

STAGES = {"wait", "load", "encode", "denoise", "decode", "save"}


def numbers(server: Server) -> dict[tuple[str, ...], float]:
    answer = server.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (
            sample.name,
            *(f"{key}={value}" for key, value in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_work_memory_and_requests_are_counted(server: Server) -> None:
    server.draw(batch_size=2)
    server.client.post("/sdapi/v1/txt2img", json=small(prompt="raise"))
    server.client.get("/api/v1/jobs/no-such-job")
    found = numbers(server)
    assert found["sdforge_jobs_total", "kind=txt2img", "status=done"] == 1
    assert found["sdforge_jobs_total", "kind=txt2img", "status=failed"] == 1
    assert found["sdforge_pictures_total",] == 2
    assert found["sdforge_queue_jobs", "state=waiting"] == 0
    assert found["sdforge_queue_paused",] == 0
    assert found["sdforge_resident_bytes",] > 10**6
    for stage in STAGES:
        assert found["sdforge_stage_seconds_count", f"stage={stage}"] >= 1
        whole = found["sdforge_stage_seconds_bucket", "le=+Inf", f"stage={stage}"]
        assert whole == found["sdforge_stage_seconds_count", f"stage={stage}"]
    asked = ("method=GET", "route=/api/v1/jobs/{job_id}", "status=404")
    assert found["sdforge_http_requests_total", *asked] == 1
    assert found["sdforge_http_seconds_total", "method=POST", "route=/sdapi/v1/txt2img"] > 0


def test_paths_that_are_no_route_count_as_one(server: Server) -> None:
    for name in "abc":
        server.client.get(f"/sdapi/v1/{name}")
    found = numbers(server)
    assert found["sdforge_http_requests_total", "method=GET", "route=(none)", "status=404"] == 3


def test_every_result_says_where_its_time_went(server: Server) -> None:
    info = json.loads(server.draw()["info"])
    assert set(info["timings"]) == STAGES
    assert all(seconds >= 0 for seconds in info["timings"].values())
    (job,) = server.client.get("/api/v1/jobs").json()
    assert set(job["timings"]) == STAGES


def test_what_is_logged_in_a_job_names_it(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("sdforge.test")
    caplog.handler.addFilter(JobFilter())
    with caplog.at_level(logging.INFO), working_on("task(one)"):
        log.info("loading")
        log.info("job task(one) is done")
    log.warning("idle")
    assert [record.job for record in caplog.records] == ["[task(one)] ", "", ""]  # type: ignore[attr-defined]
