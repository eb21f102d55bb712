"""What `Engine.submit` accepts, resolves, freezes and refuses."""

import threading
from pathlib import Path
from typing import Any

import pytest

from sdforge.core.errors import InvalidRequest, ModelError, QueueFull, StorageError, UnknownName
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.engine import DuplicateJob, Engine, JobStatus
from tests.engine.conftest import Build
from tests.engine.fakes import a_request


@pytest.fixture
def waiting(build: Build) -> Engine:
    """An engine that accepts jobs but does not run them."""
    return build()[0]


def test_nothing_is_left_open_in_a_job(waiting: Engine) -> None:
    request = waiting.submit(GenerationRequest(prompt="a cat", sampler="euler A")).request
    assert request.sampler == "Euler a"
    assert request.schedule != "Automatic"
    assert request.checkpoint == "cat.safetensors"
    assert request.seed >= 0 and request.subseed >= 0
    assert (request.width, request.height) == (64, 64)
    assert request.cfg_scale == 3.0


def test_ids_are_made_when_the_client_has_none(waiting: Engine) -> None:
    assert waiting.submit(a_request()).id.startswith("task(txt2img-")
    assert waiting.submit(a_request(), job_id="task(mine)").id == "task(mine)"


def test_the_same_id_twice_is_refused_and_names_force_task_id(waiting: Engine) -> None:
    waiting.submit(a_request(), job_id="task(mine)")
    with pytest.raises(DuplicateJob) as caught:
        waiting.submit(a_request(), job_id="task(mine)")
    assert caught.value.field == "force_task_id"
    assert caught.value.status == 409
    assert len(waiting.jobs()) == 1


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"width": 8}, "width"),
        ({"batch_count": 1000, "batch_size": 64}, "n_iter"),
        ({"width": 16384, "height": 16384}, "width"),
        ({"sampler": "Eular a"}, "sampler_name"),
        ({"schedule": "never heard of"}, "scheduler"),
        ({"checkpoint": "bird"}, "sd_model_checkpoint"),
        ({"overrides": {"sd_model_checkpoint": "bird"}}, "sd_model_checkpoint"),
        ({"overrides": {"jpeg_quality": 1000}}, "jpeg_quality"),
        ({"overrides": {"unknown": {1, 2}}}, "override_settings"),
    ],
)
def test_what_cannot_run_is_refused_naming_the_field_as_the_api_does(
    waiting: Engine, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        waiting.submit(a_request(**values))
    assert caught.value.field == field
    assert waiting.jobs() == []


def test_a_size_left_open_counts_against_the_limit(build: Build) -> None:
    engine, _ = build(max_pixels_per_image=4096)
    with pytest.raises(InvalidRequest, match="at most 4096 pixels"):
        engine.submit(a_request(width=None, height=128))
    engine.submit(a_request(width=None, height=64))


def test_a_full_queue_refuses_and_takes_jobs_again_when_one_left(build: Build) -> None:
    engine, _ = build(max_queued_jobs=2)
    first = engine.submit(a_request())
    engine.submit(a_request())
    with pytest.raises(QueueFull, match="max_queued_jobs"):
        engine.submit(a_request())
    engine.cancel(first.id)
    engine.submit(a_request())


def test_a_job_keeps_the_settings_of_its_acceptance(waiting: Engine) -> None:
    job = waiting.submit(a_request(overrides={"jpeg_quality": 33}))
    waiting.settings.update({"emphasis": "Ignore", "jpeg_quality": 44})
    settings = waiting.get(job.id).settings
    assert settings.emphasis == "Original"
    assert settings.jpeg_quality == 33


def test_locked_settings_cannot_be_overridden_by_a_request(waiting: Engine) -> None:
    overrides = {"outdir_txt2img_samples": "/tmp/elsewhere", "max_images_per_job": 10**9}
    job = waiting.submit(a_request(overrides=overrides))
    assert job.settings.outdir_txt2img_samples == "outputs/txt2img-images"
    assert job.settings.max_images_per_job == 1000
    assert job.request.overrides == {}


def test_a_null_override_is_no_override(build: Build) -> None:
    engine, _ = build(jpeg_quality=33)
    job = engine.submit(a_request(overrides={"jpeg_quality": None, "sd_model_checkpoint": None}))
    assert job.settings.jpeg_quality == 33


def test_the_checkpoint_comes_from_the_request_then_its_overrides_then_the_settings(
    build: Build,
) -> None:
    engine, _ = build(sd_model_checkpoint="dog")
    override = {"sd_model_checkpoint": "cat"}
    assert engine.submit(a_request()).request.checkpoint == "dog.safetensors"
    assert engine.submit(a_request(overrides=override)).request.checkpoint == "cat.safetensors"
    both = a_request(checkpoint="dog", overrides=override)
    assert engine.submit(both).request.checkpoint == "dog.safetensors"


def test_a_configured_checkpoint_that_is_gone_is_replaced_by_the_first(build: Build) -> None:
    engine, _ = build(sd_model_checkpoint="deleted.safetensors")
    assert engine.submit(a_request()).request.checkpoint == "cat.safetensors"
    with pytest.raises(UnknownName):
        engine.submit(a_request(checkpoint="deleted.safetensors"))


def test_a_checkpoint_that_cannot_run_is_refused_with_the_reason(waiting: Engine) -> None:
    with pytest.raises(ModelError, match="truncated"):
        waiting.submit(a_request(checkpoint="half"))


def test_eight_threads_may_submit_at_once_and_nothing_is_lost(build: Build) -> None:
    engine, runner = build()
    engine.start()
    accepted: list[str] = []

    def submit(thread: int) -> None:
        for number in range(10):
            job = engine.submit(a_request(f"{thread} {number}", steps=1), save_images=False)
            accepted.append(job.id)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(accepted)) == 80
    assert {engine.wait(job_id, 30).status for job_id in accepted} == {JobStatus.DONE}
    assert len(runner.ran) == 80
    for thread_number in range(8):
        mine = [prompt for prompt in runner.ran if prompt.startswith(f"{thread_number} ")]
        assert mine == [f"{thread_number} {number}" for number in range(10)]


def test_of_threads_that_post_the_same_id_exactly_one_wins(waiting: Engine) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def submit() -> None:
        barrier.wait()
        try:
            waiting.submit(a_request(), job_id="task(same)")
            outcomes.append("accepted")
        except DuplicateJob:
            outcomes.append("refused")

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["accepted"] + ["refused"] * 7


def test_a_job_that_cannot_be_stored_is_not_accepted(waiting: Engine) -> None:
    waiting._database.close()
    with pytest.raises(StorageError):
        waiting.submit(a_request())
    assert waiting.queue_position("anything") is None
    assert waiting._queue.newest({JobStatus.QUEUED}, 10) == []


def test_two_engines_cannot_share_a_data_folder(
    waiting: Engine, tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdforge.engine.database._LOCK_SECONDS", 0.1)
    with pytest.raises(StorageError, match="another server"):
        build()


@pytest.mark.parametrize("sent", ["nearest", "Nearest", "2"])
def test_a_scripts_upscaler_is_named_as_lists_have_it(waiting: Engine, sent: str) -> None:
    image = InputImage("0" * 64, 8, 8)
    request = a_request(init_images=(image,), extensions={"sd_upscale": {"upscaler": sent}})
    assert waiting.submit(request).request.extensions["sd_upscale"]["upscaler"] == "Nearest"


@pytest.mark.parametrize("wrong", ["Sharpest", "99"])
def test_a_scripts_upscaler_that_nobody_knows_is_refused(waiting: Engine, wrong: str) -> None:
    image = InputImage("0" * 64, 8, 8)
    with pytest.raises(UnknownName, match="Lanczos"):
        waiting.submit(
            a_request(init_images=(image,), extensions={"sd_upscale": {"upscaler": wrong}})
        )
