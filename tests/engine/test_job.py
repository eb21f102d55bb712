import pickle

import pytest

from sdforge.core.errors import InvalidRequest, StorageError
from sdforge.core.settings import Settings
from sdforge.engine.job import Job, JobError, JobStatus, check_job_id, new_job_id
from tests.engine.fakes import a_request


def test_new_ids_look_like_those_of_a1111_and_differ() -> None:
    ids = {new_job_id("txt2img") for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == len("task(txt2img-)") + 15 for one in ids)
    assert all(one.startswith("task(txt2img-") and one.endswith(")") for one in ids)


@pytest.mark.parametrize("bad", ["", "x" * 201, "a\nb", "a\x00", "\ud800"])
def test_ids_that_could_not_be_shown_or_stored_are_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest, match="force_task_id"):
        check_job_id(bad)


def test_queued_loading_and_running_jobs_are_not_finished() -> None:
    unfinished = [status.value for status in JobStatus if not status.is_finished]
    assert unfinished == ["queued", "loading", "running"]


def test_jobs_can_be_pickled() -> None:
    job = Job(id="a", request=a_request(), settings=Settings())
    assert pickle.loads(pickle.dumps(job)) == job


def test_an_error_record_keeps_kind_sentence_and_status() -> None:
    assert JobError.of(StorageError("disk full")) == JobError(
        kind="StorageError", message="disk full", status=507
    )


def test_an_unexpected_error_is_an_internal_one_and_names_its_type() -> None:
    assert JobError.of(ZeroDivisionError("division by zero")) == JobError(
        kind="InternalError", message="ZeroDivisionError: division by zero", status=500
    )


def test_torch_running_out_of_memory_is_out_of_memory() -> None:
    class OutOfMemoryError(RuntimeError):
        """Named as torch's."""

    assert JobError.of(OutOfMemoryError("no room")).status == 507
    assert JobError.of(MemoryError()).kind == "OutOfMemory"
