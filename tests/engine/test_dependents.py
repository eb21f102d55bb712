"""What the engine offers to those that make jobs as time goes by."""

from __future__ import annotations

import os

import pytest

from sdforge.core.errors import NotFound, UnknownName
from sdforge.core.model_choice import ModelChoice
from sdforge.engine import Engine, JobStatus
from tests.engine.conftest import Build
from tests.engine.fakes import PATIENCE, FakeRunner, a_request


def test_a_resolved_request_runs_later_as_it_was_then(engine: Engine, runner: FakeRunner) -> None:
    asked = a_request(overrides={"CLIP_stop_at_last_layers": 2}, seed=-1)
    resolved, settings = engine.resolve(asked)
    assert resolved.seed >= 0
    engine.change_settings({"CLIP_stop_at_last_layers": 5})
    job = engine.submit_resolved(resolved, settings, job_id="task(later)", origin="test")
    assert engine.wait(job.id, PATIENCE).status is JobStatus.DONE
    assert job.request == resolved
    assert runner.settings[-1].CLIP_stop_at_last_layers == 2


def test_a_request_is_resolved_against_the_settings_that_are_given(engine: Engine) -> None:
    settings = engine.settings.current.with_overrides({"sd_model_checkpoint": "dog"})
    resolved, kept = engine.resolve(a_request(overrides={"eta_ddim": 0.5}), settings)
    assert resolved.checkpoint == "dog.safetensors"
    assert kept == settings.with_overrides({"eta_ddim": 0.5})


def test_what_comes_next_is_announced_when_the_running_job_has_its_model(
    build: Build,
) -> None:
    engine, runner = build()
    engine.expect([ModelChoice("dog.safetensors")])
    job = engine.submit(a_request())
    engine.start()
    engine.wait(job.id, PATIENCE)
    assert runner.expected == [(ModelChoice("dog.safetensors"),)]
    assert runner.loads == ["cat.safetensors"]
    # Nothing is to come any more: what was read ahead is to leave, without another job.
    engine.expect([])
    engine.unload(device_only=True).result(PATIENCE)
    assert runner.expected[1:] == [()]


def test_a_job_does_not_suffer_from_what_comes_next(build: Build) -> None:
    class Picky(FakeRunner):
        def expect(self, titles: object, settings: object) -> None:
            raise UnknownName("checkpoint", "gone", [])

    engine, runner = build()
    engine._worker._make_runner = lambda: Picky()
    job = engine.submit(a_request())
    engine.start()
    assert engine.wait(job.id, PATIENCE).status is JobStatus.DONE


class Dependent:
    def __init__(self, needed: set[str]) -> None:
        self.needed = needed
        self.closed_while_open: bool | None = None
        self.engine: Engine | None = None

    def inputs_in_use(self) -> set[str]:
        return self.needed

    def close(self) -> None:
        assert self.engine is not None
        self.closed_while_open = not self.engine._queue.is_closing


def test_a_dependent_is_closed_before_the_queue_and_keeps_its_pictures(
    build: Build, picture: bytes
) -> None:
    engine, _ = build(inputs_keep_days=0.0)
    kept = engine.add_input(picture, "init_images[0]")
    other = engine.add_input(picture + b" ", "init_images[0]")
    for image in (kept, other):
        os.utime(engine.inputs._folder / image.sha256, (0, 0))
    dependent = Dependent({kept.sha256})
    dependent.engine = engine
    engine.attach(dependent)
    engine._inputs_cleaned = 0.0
    engine.add_input(picture + b"  ", "init_images[0]")
    engine.inputs.read(kept)
    with pytest.raises(NotFound):
        engine.inputs.read(other)
    engine.close()
    assert dependent.closed_while_open is True


@pytest.fixture
def picture() -> bytes:
    import numpy as np

    from sdforge.output.images import encode_image

    return encode_image(np.zeros((8, 8, 3), np.uint8), "png", infotext=None)
