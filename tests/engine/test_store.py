import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sdforge.core.errors import InvalidRequest, StorageError
from sdforge.core.settings import Settings
from sdforge.engine import database as database_module
from sdforge.engine.database import Database
from sdforge.engine.job import DuplicateJob, Job, JobError, JobImage, JobStatus, Progress
from sdforge.engine.store import JobStore
from tests.engine.fakes import a_request


def open_store(path: Path) -> JobStore:
    return JobStore(Database(path))


def close(store: JobStore) -> None:
    store._database.close()


PICTURE = JobImage(
    index=0, path="/x/0.png", media_type="image/png", infotext="a", seed=1, width=64, height=64
)


def a_job(job_id: str = "a", **values: object) -> Job:
    settings = Settings().with_overrides({"jpeg_quality": 55, "someone_elses": [1]})
    job = Job(id=job_id, request=a_request(overrides={"x": 1}), settings=settings, created_at=5.0)
    return replace(job, **values)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sdforge.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[JobStore]:
    store = open_store(path)
    yield store
    close(store)


def test_a_job_comes_back_as_it_was_stored(path: Path) -> None:
    job = a_job(
        status=JobStatus.FAILED,
        started_at=6.0,
        finished_at=7.0,
        save_images=False,
        origin="ui",
        progress=Progress(fraction=0.5, stage="denoise", step=3, steps=6),
        error=JobError(kind="OutOfMemory", message="too large", status=507),
        timings={"load": 1.5},
    )
    store = open_store(path)
    store.add(job)
    close(store)
    again = open_store(path)
    assert again.get("a") == job
    close(again)


def test_text_that_utf8_cannot_hold_is_stored_all_the_same(store: JobStore) -> None:
    job = a_job(request=a_request("half a \ud83d emoji"))
    store.add(job)
    store.add_image("a", replace(PICTURE, infotext="half a \ud83d emoji"))
    read = store.get("a")
    assert read is not None
    assert read.request.prompt == "half a \ud83d emoji"
    assert read.images[0].infotext == "half a \ud83d emoji"


def test_pictures_belong_to_their_job_and_keep_their_order(store: JobStore) -> None:
    store.add(a_job("a"))
    store.add(a_job("b"))
    for index in (10, 2, 0):
        store.add_image("b", replace(PICTURE, index=index))
    listed = {job.id: job.images for job in store.newest(None, 10)}
    assert [image.index for image in listed["b"]] == [0, 2, 10]
    assert listed["a"] == ()


def test_two_jobs_of_one_id_are_refused(store: JobStore) -> None:
    store.add(a_job())
    with pytest.raises(DuplicateJob, match="force_task_id"):
        store.add(a_job())
    store.add(a_job("b"))
    assert len(store.newest(None, 10)) == 2


def test_overrides_that_are_no_json_are_refused_by_name(store: JobStore) -> None:
    with pytest.raises(InvalidRequest, match="override_settings"):
        store.add(a_job(request=a_request(overrides={"x": object()})))


def test_listing_gives_the_newest_first_and_filters(store: JobStore) -> None:
    for number in range(6):
        status = JobStatus.DONE if number % 2 else JobStatus.QUEUED
        store.add(a_job(str(number), status=status))
    assert [job.id for job in store.newest(None, 2)] == ["5", "4"]
    assert [job.id for job in store.newest({JobStatus.DONE}, 10)] == ["5", "3", "1"]
    assert store.newest(set(), 10) == []


def test_recovery_marks_what_was_cut_off_and_returns_what_waits(store: JobStore) -> None:
    for job_id, status in [
        ("done", JobStatus.DONE),
        ("running", JobStatus.RUNNING),
        ("loading", JobStatus.LOADING),
        ("first", JobStatus.QUEUED),
        ("second", JobStatus.QUEUED),
    ]:
        store.add(a_job(job_id, status=status))
    store.add_image("running", PICTURE)
    assert [job.id for job in store.recover()] == ["first", "second"]
    cut = {job.id: job for job in store.newest({JobStatus.INTERRUPTED}, 10)}
    assert set(cut) == {"running", "loading"}
    assert cut["running"].images == (PICTURE,)
    assert cut["running"].finished_at is not None
    done = store.get("done")
    assert done is not None and done.status is JobStatus.DONE


def test_a_second_server_on_the_same_file_is_refused(
    store: JobStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_LOCK_SECONDS", 0.1)
    with pytest.raises(StorageError, match="in use by another server"):
        open_store(path)


def test_a_file_of_a_newer_version_is_refused_and_kept(path: Path) -> None:
    close(open_store(path))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="newer version"):
        open_store(path)
    assert path.exists()


def test_a_file_that_is_no_database_is_put_aside(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is not SQLite" * 100)
    store = open_store(path)
    store.add(a_job())
    close(store)
    kept = [one for one in path.parent.iterdir() if "unreadable" in one.name]
    assert [one.read_bytes() for one in kept] == [b"this is not SQLite" * 100]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not create"):
        open_store(tmp_path / "file" / "sdforge.sqlite3")


def test_a_stored_setting_that_is_no_longer_allowed_falls_back_to_its_default(
    store: JobStore, path: Path
) -> None:
    store.add(a_job())
    close(store)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE jobs SET settings = json_set(settings, '$.emphasis', 'Sideways')"
        )
    connection.close()
    again = open_store(path)
    job = again.get("a")
    close(again)
    assert job is not None
    assert job.settings.emphasis == "Original"
    assert job.settings.jpeg_quality == 55


def test_one_damaged_job_does_not_hide_the_others(store: JobStore, path: Path) -> None:
    store.add(a_job("good"))
    store.add(a_job("bad"))
    close(store)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE jobs SET request = '{' WHERE id = 'bad'")
    connection.close()
    again = open_store(path)
    assert [job.id for job in again.recover()] == ["good"]
    close(again)


def test_a_full_disk_is_a_storage_error_and_passes(store: JobStore) -> None:
    store.add(a_job("a"))
    store._database._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StorageError):
        for number in range(100):
            store.add(a_job(f"many {number}"))
    store._database._connection.execute("PRAGMA max_page_count = 100000")
    store.add(a_job("later"))
    assert store.get("later") is not None


def test_after_closing_calls_are_storage_errors(store: JobStore) -> None:
    close(store)
    with pytest.raises(StorageError):
        store.add(a_job())
    with pytest.raises(StorageError):
        store.get("a")


def test_many_threads_may_write_at_once(store: JobStore) -> None:
    def write(thread: int) -> None:
        for number in range(25):
            job = a_job(f"{thread}-{number}")
            store.add(job)
            store.add_image(job.id, PICTURE)
            store.update(replace(job, status=JobStatus.DONE))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = store.newest({JobStatus.DONE}, 1000)
    assert len(jobs) == 200
    assert all(len(job.images) == 1 for job in jobs)
