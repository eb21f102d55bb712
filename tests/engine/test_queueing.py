"""Waiting jobs: their order, pausing, trying again, idempotency keys."""

from __future__ import annotations

import pytest

from sdforge.core.errors import InvalidRequest, NotFound
from sdforge.engine import JobStatus, Terms
from sdforge.engine.job import KeyReused
from tests.engine.conftest import Build
from tests.engine.fakes import PATIENCE, a_request


def test_jobs_run_by_priority_and_then_in_the_order_they_came(build: Build) -> None:
    engine, runner = build()
    for name, priority in (("a", 0), ("b", 0), ("c", 5), ("d", -1)):
        engine.submit(a_request(name), job_id=name, terms=Terms(priority=priority))
    engine.prioritise("b", 1)
    assert [job.id for job in engine.waiting()] == ["c", "b", "a", "d"]
    assert [engine.queue_position(name) for name in "cbad"] == [0, 1, 2, 3]
    engine.start()
    assert engine.wait("d", PATIENCE).status is JobStatus.DONE
    assert runner.ran == ["c", "b", "a", "d"]


def test_the_order_survives_a_restart(build: Build) -> None:
    engine, _ = build()
    for name in "abc":
        engine.submit(a_request(name), job_id=name)
    engine.move("c", 0)
    engine.move("a", 9)
    engine.close()
    again, _ = build()
    assert [job.id for job in again.waiting()] == ["c", "b", "a"]
    later = again.submit(a_request("d"))
    assert again.waiting()[-1].id == later.id


def test_only_waiting_jobs_can_be_moved(build: Build) -> None:
    engine, _ = build()
    engine.start()
    engine.submit(a_request("a"), job_id="a")
    engine.wait("a", PATIENCE)
    with pytest.raises(InvalidRequest, match="done"):
        engine.move("a", 0)
    with pytest.raises(InvalidRequest, match="-100 to 100"):
        engine.prioritise("a", 101)
    with pytest.raises(NotFound):
        engine.move("nobody", 0)


def test_a_paused_queue_starts_nothing_also_after_a_restart(build: Build) -> None:
    engine, runner = build()
    engine.pause()
    engine.start()
    engine.submit(a_request("a"), job_id="a")
    engine.unload().result(PATIENCE)
    assert engine.get("a").status is JobStatus.QUEUED
    engine.close()
    again, runner = build()
    assert again.is_paused
    again.start()
    again.unload().result(PATIENCE)
    assert runner.ran == []
    again.pause(False)
    assert again.wait("a", PATIENCE).status is JobStatus.DONE


def test_all_waiting_jobs_can_be_cancelled_at_once(build: Build) -> None:
    engine, _ = build()
    for name in "ab":
        engine.submit(a_request(name), job_id=name)
    assert engine.cancel_waiting() == ["a", "b"]
    assert engine.get("b").status is JobStatus.CANCELLED
    assert engine.queue_state() == {"paused": False, "running": 0, "waiting": 0}


def test_the_same_key_is_the_same_job(build: Build) -> None:
    engine, runner = build()
    terms = Terms(key="my key", digest="of this")
    first = engine.submit(a_request("a", seed=-1), terms=terms)
    assert engine.submit(a_request("a", seed=-1), terms=terms).id == first.id
    with pytest.raises(KeyReused, match="Idempotency-Key"):
        engine.submit(a_request("b"), terms=Terms(key="my key", digest="of that"))
    engine.start()
    done = engine.wait(first.id, PATIENCE)
    assert engine.submit(a_request("a", seed=-1), terms=terms) == done
    engine.close()
    again, runner = build()
    assert again.submit(a_request("a", seed=-1), terms=terms).id == first.id
    assert runner.ran == []


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb"])
def test_keys_that_cannot_be_used_are_refused(build: Build, key: str) -> None:
    engine, _ = build()
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        engine.submit(a_request(), terms=Terms(key=key))


def test_a_job_tried_again_draws_the_same_with_the_same_settings(build: Build) -> None:
    engine, _ = build()
    engine.start()
    first = engine.submit(a_request("a", seed=-1, overrides={"CLIP_stop_at_last_layers": 2}))
    with pytest.raises(InvalidRequest, match="finished"):
        engine.pause()
        engine.retry(engine.submit(a_request("waits")).id)
    engine.pause(False)
    engine.wait(first.id, PATIENCE)
    engine.settings.update({"CLIP_stop_at_last_layers": 5})
    again = engine.retry(first.id)
    assert again.id != first.id
    assert again.request == first.request
    assert again.settings.CLIP_stop_at_last_layers == 2
    assert again.terms.retry_of == first.id
    assert engine.wait(again.id, PATIENCE).status is JobStatus.DONE


def test_the_rest_of_a_job_has_the_seeds_that_it_would_have_had(build: Build) -> None:
    engine, runner = build()
    runner.gate_step = 1
    request = a_request("a", seed=100, batch_size=2, batch_count=3, steps=1)
    job = engine.submit(request, job_id="cut")
    engine.start()
    runner.reached.acquire(timeout=PATIENCE)
    runner.gate.set()
    runner.gate_step = None
    done = engine.wait(job.id, PATIENCE)
    assert [image.seed for image in done.images] == list(range(100, 106))
    with pytest.raises(InvalidRequest, match="no batch left"):
        engine.retry(job.id, rest=True)


def test_what_an_interrupted_job_lacks_can_be_drawn(build: Build) -> None:
    engine, _ = build()
    engine.start()
    request = a_request("raise late", seed=100, batch_size=2, batch_count=3, steps=1)
    job = engine.wait(engine.submit(request).id, PATIENCE)
    assert job.status is JobStatus.FAILED
    assert [image.seed for image in job.images] == [100, 101]
    rest = engine.retry(job.id, rest=True)
    assert (rest.request.seed, rest.request.batch_count) == (102, 2)
    assert rest.request.image_prompt(0) == request.prompt
