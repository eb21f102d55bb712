"""Jobs from the queue to their end: order, stopping, failures, events, pictures, closing."""

import io
import queue
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from sdforge.core.errors import NotFound, QueueFull
from sdforge.core.events import (
    ImageSaved,
    JobFinished,
    JobQueued,
    JobStarted,
    ModelLoading,
    PreviewReady,
    StepDone,
)
from sdforge.engine import Engine, Job, JobStatus
from tests.engine.conftest import Build
from tests.engine.fakes import PATIENCE, FakeRunner, a_request


def finish(engine: Engine, job: Job) -> Job:
    done = engine.wait(job.id, PATIENCE)
    assert done.is_finished, f"still {done.status} after {PATIENCE} s"
    return done


def stop_at_step(runner: FakeRunner, step: int) -> None:
    runner.gate_step = step


def wait_until_reached(runner: FakeRunner) -> None:
    assert runner.reached.acquire(timeout=PATIENCE)


# --- order ------------------------------------------------------------------------------------


def test_jobs_run_one_after_another_in_order_on_one_thread(build: Build) -> None:
    engine, runner = build()
    prompts = [f"number {number}" for number in range(10)]
    jobs = [engine.submit(a_request(prompt)) for prompt in prompts]
    assert [engine.queue_position(job.id) for job in jobs] == list(range(10))
    engine.start()
    assert [finish(engine, job).status for job in jobs] == [JobStatus.DONE] * 10
    assert runner.ran == prompts
    assert runner.threads == {"sdforge-model"}


def test_a_running_job_shows_status_progress_and_preview(
    engine: Engine, runner: FakeRunner
) -> None:
    stop_at_step(runner, 2)
    job = engine.submit(a_request(steps=4))
    waiting = engine.submit(a_request())
    wait_until_reached(runner)
    now = engine.get(job.id)
    assert now.status is JobStatus.RUNNING
    assert now.progress.fraction == pytest.approx(0.51)
    assert (now.progress.step, now.progress.steps) == (2, 4)
    assert now.progress.eta_seconds is not None
    assert engine.preview(job.id) == (2, bytes([2]), "image/jpeg")
    current = engine.current()
    assert current is not None and current.id == job.id
    assert engine.queue_position(job.id) is None
    assert engine.queue_position(waiting.id) == 1
    active = engine.jobs(statuses={JobStatus.QUEUED, JobStatus.RUNNING})
    assert [one.id for one in active] == [waiting.id, job.id]
    runner.gate.set()
    done = finish(engine, job)
    assert done.progress.fraction == 1.0
    assert engine.preview(job.id) is None
    finish(engine, waiting)
    assert engine.current() is None


def test_a_finished_job_knows_its_times_and_pictures(engine: Engine) -> None:
    job = finish(engine, engine.submit(a_request(batch_size=2, batch_count=2)))
    assert job.started_at is not None and job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at
    assert [image.index for image in job.images] == [0, 1, 2, 3]
    assert [image.seed for image in job.images] == [7, 8, 9, 10]
    assert "Steps: 4" in job.images[0].infotext
    assert set(job.timings) >= {"load", "encode", "denoise", "decode"}


def test_jobs_are_listed_newest_first_with_a_limit(engine: Engine) -> None:
    jobs = [finish(engine, engine.submit(a_request(steps=1))) for _ in range(4)]
    assert [job.id for job in engine.jobs(limit=2)] == [jobs[3].id, jobs[2].id]
    assert engine.jobs(statuses={JobStatus.FAILED}) == []


# --- stopping ---------------------------------------------------------------------------------


def test_a_queued_job_that_is_cancelled_ends_at_once_and_never_runs(
    engine: Engine, runner: FakeRunner
) -> None:
    stop_at_step(runner, 1)
    first = engine.submit(a_request("first"))
    second = engine.submit(a_request("second"))
    wait_until_reached(runner)
    engine.cancel(second.id)
    cancelled = engine.wait(second.id, 0)
    assert cancelled.status is JobStatus.CANCELLED
    assert cancelled.finished_at is not None
    runner.gate.set()
    finish(engine, first)
    assert runner.ran == ["first"]


@pytest.mark.parametrize("by_id", [True, False])
def test_cancelling_the_running_job_keeps_its_pictures_and_goes_on_with_the_next(
    engine: Engine, runner: FakeRunner, by_id: bool
) -> None:
    stop_at_step(runner, 3)
    job = engine.submit(a_request(steps=4, batch_count=3))
    after = engine.submit(a_request("after"))
    wait_until_reached(runner)
    engine.cancel(job.id if by_id else None)
    assert engine.get(job.id).cancel_requested
    runner.gate.set()
    cancelled = finish(engine, job)
    assert cancelled.status is JobStatus.CANCELLED
    assert cancelled.error is None
    assert [image.index for image in cancelled.images] == [0]
    assert finish(engine, after).status is JobStatus.DONE


def test_pictures_of_a_stopped_batch_are_saved_only_where_the_setting_says_so(
    engine: Engine, runner: FakeRunner
) -> None:
    for save in (False, True):
        runner.gate.clear()
        stop_at_step(runner, 2)
        job = engine.submit(a_request(overrides={"save_incomplete_images": save}))
        wait_until_reached(runner)
        engine.cancel()
        runner.gate.set()
        image = finish(engine, job).images[0]
        assert (image.path is not None) is save
        assert engine.image_data(job.id, 0)[0]


def test_skipping_ends_the_batch_and_the_job_goes_on(engine: Engine, runner: FakeRunner) -> None:
    stop_at_step(runner, 2)
    job = engine.submit(a_request(steps=4, batch_count=2))
    wait_until_reached(runner)
    engine.skip()
    runner.gate_step = None
    runner.gate.set()
    done = finish(engine, job)
    assert done.status is JobStatus.DONE
    assert [image.index for image in done.images] == [0, 1]
    steps = [one.event for one in engine.events(job.id) if isinstance(one.event, StepDone)]
    assert [(one.batch, one.step) for one in steps] == [
        (0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (1, 4),
    ]  # fmt: skip


def test_stopping_what_is_over_or_idle_does_nothing(engine: Engine) -> None:
    engine.cancel()
    engine.skip()
    job = finish(engine, engine.submit(a_request()))
    engine.cancel(job.id)
    engine.skip(job.id)
    assert engine.get(job.id).status is JobStatus.DONE


def test_unknown_ids_are_not_found(engine: Engine) -> None:
    for call in (engine.get, engine.cancel, engine.skip, engine.wait, engine.events):
        with pytest.raises(NotFound):
            call("task(nobody)")
    with pytest.raises(NotFound):
        engine.subscribe("task(nobody)")
    assert engine.preview("task(nobody)") is None


# --- failures ---------------------------------------------------------------------------------


def test_a_job_that_fails_says_why_and_the_next_one_runs(engine: Engine) -> None:
    bad = finish(engine, engine.submit(a_request("raise")))
    assert bad.status is JobStatus.FAILED
    assert bad.error is not None
    assert bad.error.kind == "InternalError"
    assert bad.error.message == "RuntimeError: the fake broke"
    assert bad.error.status == 500
    assert finish(engine, engine.submit(a_request())).status is JobStatus.DONE


def test_pictures_made_before_a_failure_are_kept(engine: Engine) -> None:
    bad = finish(engine, engine.submit(a_request("raise late", batch_count=2)))
    assert bad.status is JobStatus.FAILED
    assert len(bad.images) == 1


def test_a_job_that_exits_does_not_end_the_model_thread(engine: Engine) -> None:
    assert finish(engine, engine.submit(a_request("exit"))).status is JobStatus.FAILED
    assert finish(engine, engine.submit(a_request())).status is JobStatus.DONE


def test_a_runner_that_cannot_be_built_fails_its_job_and_is_tried_again(tmp_path: Path) -> None:
    from sdforge.core.paths import Paths
    from sdforge.core.settings import SettingsStore
    from tests.engine.fakes import FakeLibrary

    attempts: list[int] = []

    def make_runner() -> FakeRunner:
        attempts.append(1)
        if len(attempts) == 1:
            raise ImportError("no module named torch")
        return FakeRunner()

    engine = Engine(
        paths=Paths.under(tmp_path),
        settings=SettingsStore(None),
        library=FakeLibrary(),
        make_runner=make_runner,
        version="test",
    )
    engine.start()
    first = finish(engine, engine.submit(a_request()))
    assert first.error is not None and "torch" in first.error.message
    assert "torch" in engine.model_state()["error"]
    assert finish(engine, engine.submit(a_request())).status is JobStatus.DONE
    engine.close()


def test_a_picture_that_cannot_be_written_fails_the_job_and_stops_it(
    engine: Engine, runner: FakeRunner, tmp_path: Path
) -> None:
    (tmp_path / "outputs").write_text("a file where the folder should be")
    job = finish(engine, engine.submit(a_request(batch_count=50, steps=20)))
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.kind, job.error.status) == ("StorageError", 507)
    unsaved = finish(engine, engine.submit(a_request(), save_images=False))
    assert unsaved.status is JobStatus.DONE


def test_no_exception_is_kept_that_would_hold_a_jobs_tensors(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    class Tensor:
        """Stands for something large."""

    held: list[weakref.ref[Tensor]] = []
    engine, runner = build()

    def run(*_: object) -> None:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise RuntimeError("outer") from error

    monkeypatch.setattr(runner, "run", run)
    engine.start()
    job = finish(engine, engine.submit(a_request()))
    assert job.status is JobStatus.FAILED
    # The thread is still inside `execute` for a moment after the job is finished.
    finish(engine, engine.submit(a_request()))
    gc.collect()
    assert held[0]() is None


def test_a_fault_while_ending_a_job_fails_it_and_the_model_thread_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sdforge.engine.job_run._wants_grid", lambda *_: True)
        patch.setattr(engine._writer, "save_grid", lambda *_, **__: 1 / 0)
        job = finish(engine, engine.submit(a_request(batch_size=2)))
    assert job.status is JobStatus.FAILED
    assert job.error is not None and "ZeroDivisionError" in job.error.message
    assert finish(engine, engine.submit(a_request())).status is JobStatus.DONE


# --- pictures ---------------------------------------------------------------------------------


def test_one_folder_for_everything_counts_for_the_page_only(build: Build, tmp_path: Path) -> None:
    engine, _ = build(outdir_samples="together")
    engine.start()
    paths = [
        finish(engine, engine.submit(a_request(), origin=origin)).images[0].path
        for origin in ("ui", "api")
    ]
    folders = [Path(path or "").relative_to(tmp_path).parts[0] for path in paths]
    assert folders == ["together", "outputs"]


def test_saved_pictures_are_read_from_their_files(engine: Engine, tmp_path: Path) -> None:
    job = finish(engine, engine.submit(a_request()))
    path = job.images[0].path
    assert path is not None and Path(path).is_relative_to(tmp_path / "outputs")
    data, media_type = engine.image_data(job.id, 0)
    assert media_type == "image/png"
    assert data == Path(path).read_bytes()
    picture = Image.open(io.BytesIO(data))
    assert picture.size == (64, 64)
    assert picture.getpixel((0, 0)) == (7, 7, 7)


def test_unsaved_pictures_are_served_from_memory(engine: Engine, tmp_path: Path) -> None:
    job = finish(engine, engine.submit(a_request(batch_size=2), save_images=False))
    assert [image.path for image in job.images] == [None, None]
    assert job.grid is None
    data, _ = engine.image_data(job.id, 1)
    assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (8, 8, 8)
    assert not (tmp_path / "outputs").exists()


def test_the_setting_samples_save_stops_saving_too(engine: Engine) -> None:
    request = a_request(overrides={"samples_save": False})
    assert finish(engine, engine.submit(request, save_images=True)).images[0].path is None


def test_several_saved_pictures_get_a_grid(engine: Engine) -> None:
    job = finish(engine, engine.submit(a_request(batch_size=2)))
    assert job.grid is not None and job.grid.path is not None
    assert [image.index for image in job.images] == [0, 1]
    data, _ = engine.image_data(job.id, -1)
    assert Image.open(io.BytesIO(data)).width == 128
    single = finish(engine, engine.submit(a_request()))
    assert single.grid is None


def test_pictures_that_are_not_there_are_not_found(engine: Engine) -> None:
    job = finish(engine, engine.submit(a_request()))
    with pytest.raises(NotFound, match="no picture 5"):
        engine.image_data(job.id, 5)
    assert job.images[0].path is not None
    Path(job.images[0].path).unlink()
    with pytest.raises(NotFound, match="cannot be read"):
        engine.image_data(job.id, 0)


def test_an_unsaved_picture_that_made_room_is_not_found(engine: Engine) -> None:
    engine._pictures._max_pictures = 1
    job = finish(engine, engine.submit(a_request(batch_size=2), save_images=False))
    with pytest.raises(NotFound, match="no longer in memory"):
        engine.image_data(job.id, 0)
    assert engine.image_data(job.id, 1)


# --- events and waiting -----------------------------------------------------------------------


def test_events_are_numbered_replayed_and_end_with_the_job(engine: Engine) -> None:
    job = finish(engine, engine.submit(a_request(steps=2)))
    events = list(engine.events(job.id))
    numbers = [one.sequence for one in events]
    assert numbers == sorted(set(numbers))
    kinds = [type(one.event) for one in events]
    assert kinds[:2] == [JobQueued, JobStarted]
    assert kinds[-2:] == [ImageSaved, JobFinished]
    assert kinds.count(StepDone) == 2
    assert PreviewReady not in kinds
    assert events[-1].event == JobFinished(status="done")
    assert list(engine.events(job.id, after=numbers[-2])) == events[-1:]


def test_a_live_reader_and_a_late_one_see_the_same_milestones(
    engine: Engine, runner: FakeRunner
) -> None:
    stop_at_step(runner, 1)
    job = engine.submit(a_request())
    live: list[object] = []

    def read() -> None:
        live.extend(one for one in engine.events(job.id) if type(one.event) is not PreviewReady)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until_reached(runner)
    runner.gate.set()
    reader.join(PATIENCE)
    assert live == list(engine.events(job.id))


def test_a_subscriber_is_notified_up_to_the_end(engine: Engine) -> None:
    woken = threading.Event()
    job = engine.submit(a_request())
    subscription = engine.subscribe(job.id, notify=woken.set)
    seen = []
    while not subscription.ended:
        assert woken.wait(PATIENCE)
        woken.clear()
        while not subscription.ended:
            try:
                seen.append(subscription.get_nowait().event)
            except queue.Empty:
                break
    engine.unsubscribe(subscription)
    assert seen[-1] == JobFinished(status="done")


def test_a_failed_jobs_last_event_tells_why(engine: Engine) -> None:
    job = finish(engine, engine.submit(a_request("raise")))
    *_, last = engine.events(job.id)
    assert last.event == JobFinished(status="failed", error="RuntimeError: the fake broke")


def test_events_of_old_jobs_are_dropped_but_their_end_is_known(engine: Engine) -> None:
    engine._queue._keep_finished = 3
    jobs = [finish(engine, engine.submit(a_request(steps=1))) for _ in range(5)]
    assert len(engine._queue._live) == 3
    assert [one.event for one in engine.events(jobs[0].id)] == [JobFinished(status="done")]
    assert len(list(engine.events(jobs[4].id))) > 1
    assert engine.get(jobs[0].id) == jobs[0]
    assert engine.wait(jobs[0].id).status is JobStatus.DONE


def test_waiting_gives_up_after_its_time(engine: Engine, runner: FakeRunner) -> None:
    stop_at_step(runner, 1)
    job = engine.submit(a_request())
    wait_until_reached(runner)
    started = time.monotonic()
    assert not engine.wait(job.id, 0.05).is_finished
    assert time.monotonic() - started < 5
    runner.gate.set()


def test_many_waiters_are_all_woken(engine: Engine) -> None:
    jobs = [engine.submit(a_request(steps=1), save_images=False) for _ in range(20)]
    results: list[JobStatus] = []
    threads = [
        threading.Thread(target=lambda one=job: results.append(engine.wait(one.id, 30).status))
        for job in jobs
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [JobStatus.DONE] * 60


# --- models -----------------------------------------------------------------------------------


def test_preloading_happens_on_the_model_thread_before_the_first_job(build: Build) -> None:
    engine, runner = build()
    job = engine.submit(a_request())
    engine.preload()
    engine.start()
    finish(engine, job)
    assert runner.loads == ["cat.safetensors"]
    assert runner.threads == {"sdforge-model"}
    assert engine.model_state() == {
        "title": "cat.safetensors", "loading": False, "fraction": 1.0, "error": None,
    }  # fmt: skip
    assert not any(isinstance(one.event, ModelLoading) for one in engine.events(job.id))


def test_a_failed_preload_is_recorded_and_jobs_run_all_the_same(build: Build) -> None:
    engine, _ = build(sd_model_checkpoint="dog")
    engine.preload()
    engine.start()
    assert finish(engine, engine.submit(a_request(checkpoint="cat"))).status is JobStatus.DONE
    with pytest.raises(RuntimeError, match="damaged"):
        engine.preload().result(PATIENCE)
    state = engine.model_state()
    assert (state["title"], state["loading"]) == ("", False)
    assert "damaged" in state["error"]


def test_the_error_of_a_failed_preload_holds_no_frames_of_the_load(engine: Engine) -> None:
    error = engine.preload("dog").exception(PATIENCE)
    assert isinstance(error, RuntimeError)
    assert error.__traceback__ is None


def test_of_preloads_that_wait_only_the_last_one_loads(build: Build) -> None:
    engine, runner = build()
    chosen = [engine.preload(name) for name in ("dog", "dog", "cat")]
    engine.start()
    for future in chosen:
        future.result(PATIENCE)
    assert runner.loads == ["cat.safetensors"]


def test_a_job_whose_model_fails_to_load_leaves_no_loading_state(engine: Engine) -> None:
    job = finish(engine, engine.submit(a_request(checkpoint="dog")))
    assert job.status is JobStatus.FAILED
    engine.preload("cat").result(PATIENCE)
    assert engine.model_state()["title"] == "cat.safetensors"


def test_unloading_waits_for_the_running_job_and_is_reported(
    engine: Engine, runner: FakeRunner
) -> None:
    stop_at_step(runner, 1)
    job = engine.submit(a_request())
    wait_until_reached(runner)
    unloading = engine.unload()
    assert engine.memory_report() == {"loaded": ["cat.safetensors"]}
    assert not unloading.done()
    runner.gate.set()
    unloading.result(PATIENCE)
    assert finish(engine, job).status is JobStatus.DONE
    assert engine.memory_report() == {"loaded": []}
    assert engine.model_state()["title"] == ""


def test_a_waiting_job_runs_with_the_memory_settings_of_now(
    engine: Engine, runner: FakeRunner
) -> None:
    stop_at_step(runner, 1)
    first = engine.submit(a_request())
    second = engine.submit(a_request())
    third = engine.submit(a_request(overrides={"forge_inference_memory": 512}))
    wait_until_reached(runner)
    engine.settings.update({"forge_inference_memory": 3000, "emphasis": "Ignore"})
    runner.gate.set()
    for job in (first, second, third):
        finish(engine, job)
    assert [one.forge_inference_memory for one in runner.settings] == [1024, 3000, 512]
    assert {one.emphasis for one in runner.settings} == {"Original"}


# --- restart and close ------------------------------------------------------------------------


def test_closing_interrupts_the_running_job_and_keeps_the_waiting_ones(build: Build) -> None:
    engine, runner = build()
    engine.start()
    stop_at_step(runner, 2)
    running = engine.submit(a_request("running", overrides={"save_incomplete_images": True}))
    waiting = engine.submit(a_request("waiting"))
    wait_until_reached(runner)
    woken: list[JobStatus] = []
    waiter = threading.Thread(target=lambda: woken.append(engine.wait(waiting.id).status))
    reader = threading.Thread(target=lambda: list(engine.events(waiting.id)))
    waiter.start()
    reader.start()
    threading.Timer(0.05, runner.gate.set).start()
    engine.close(timeout=PATIENCE)
    waiter.join(PATIENCE)
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert woken == [JobStatus.QUEUED]
    assert runner.unloads == 1
    with pytest.raises(QueueFull, match="stopping"):
        engine.submit(a_request())

    again, second_runner = build()
    cut = again.get(running.id)
    assert cut.status is JobStatus.INTERRUPTED
    assert cut.error is not None and cut.error.kind == "Interrupted"
    assert len(cut.images) == 1
    assert again.image_data(running.id, 0)[0]
    again.start()
    assert finish(again, waiting).status is JobStatus.DONE
    assert second_runner.ran == ["waiting"]


def test_who_follows_a_long_step_is_let_go_before_the_engine_has_stopped(build: Build) -> None:
    engine, runner = build()
    engine.start()
    stop_at_step(runner, 2)
    job = engine.submit(a_request())
    wait_until_reached(runner)
    reader = threading.Thread(target=lambda: list(engine.events(job.id)))
    reader.start()
    closing = threading.Thread(target=engine.close)
    closing.start()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert closing.is_alive() and engine.get(job.id).status is JobStatus.RUNNING
    runner.gate.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    again, _ = build()
    assert again.get(job.id).status is JobStatus.INTERRUPTED


def test_closing_does_not_wait_for_a_job_that_hangs(build: Build) -> None:
    engine, runner = build()
    engine.start()
    stop_at_step(runner, 1)
    job = engine.submit(a_request())
    wait_until_reached(runner)
    started = time.monotonic()
    engine.close(timeout=0.1)
    assert time.monotonic() - started < 5
    runner.gate.set()
    again, _ = build()
    assert again.get(job.id).status is JobStatus.INTERRUPTED


def test_a_job_that_its_user_cancelled_is_cancelled_even_when_the_server_stops(
    build: Build,
) -> None:
    engine, runner = build()
    engine.start()
    stop_at_step(runner, 1)
    job = engine.submit(a_request())
    wait_until_reached(runner)
    engine.cancel(job.id)
    threading.Timer(0.05, runner.gate.set).start()
    engine.close(timeout=PATIENCE)
    again, _ = build()
    assert again.get(job.id).status is JobStatus.CANCELLED


def test_closing_an_engine_that_never_started_or_twice_is_fine(build: Build) -> None:
    engine, _ = build()
    job = engine.submit(a_request())
    engine.close()
    engine.close()
    assert build()[0].get(job.id).status is JobStatus.QUEUED


def test_a_job_comes_back_from_disk_as_it_was(build: Build) -> None:
    engine, _ = build()
    engine.start()
    request = a_request("äöü 🐈", batch_size=2, overrides={"jpeg_quality": 33, "other": [1, "x"]})
    job = finish(engine, engine.submit(request, origin="ui"))
    engine.close()
    assert build()[0].get(job.id) == job
