"""A job as data: what was asked, where it stands, what came out.

All types are frozen and picklable; the queue replaces a `Job` by its next state, so whoever holds
one holds a consistent snapshot. `store.py` writes them to disk, `queue.py` changes them.
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sdforge.core.errors import InvalidRequest, SdforgeError
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings

_ID_CHARACTERS = string.ascii_lowercase + string.digits
_MAX_ID_LENGTH = 200


class JobStatus(StrEnum):
    """Where a job stands; INTERRUPTED means that the server stopped while it ran."""

    QUEUED = "queued"
    LOADING = "loading"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_finished(self) -> bool:
        """Whether the job will never change again."""
        return self not in ACTIVE


ACTIVE = frozenset({JobStatus.QUEUED, JobStatus.LOADING, JobStatus.RUNNING})


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is. `step` of `steps` are done in batch `batch` (from 0) of `batch_count`.

    `eta_seconds` is None until the first step is done. `text` is for people and may be empty;
    `notices` are sentences about what went otherwise than asked, each once.
    """

    fraction: float = 0.0
    eta_seconds: float | None = None
    stage: str = ""
    step: int = 0
    steps: int = 0
    batch: int = 0
    batch_count: int = 1
    text: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JobImage:
    """One finished picture, or with `index` -1 a job's grid; `path` is None when it was not saved.

    `processing` says what extras did to it. Sizes are in pixels; `bytes` and `sha256` are those of
    the encoded file.
    """

    index: int
    path: str | None
    media_type: str
    infotext: str
    seed: int
    width: int
    height: int
    processing: str = ""
    bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What was agreed with the client beside the request itself.

    Of jobs that wait, those of a higher `priority` run first. A `key` names the client's intent:
    the same key again is the same job, if `digest` (of what was sent) is the same too. `webhook` is
    told when the job ends. `retry_of` is the job whose request this one repeats.
    """

    priority: int = 0
    key: str | None = None
    digest: str = ""
    webhook: str | None = None
    retry_of: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobError:
    """Why a job failed: name of the error's class, its sentence, and an HTTP status."""

    kind: str
    message: str
    status: int

    @classmethod
    def of(cls, error: BaseException) -> JobError:
        """Record an exception without keeping it: its traceback holds frames full of tensors."""
        if isinstance(error, SdforgeError):
            return cls(kind=type(error).__name__, message=error.message, status=error.status)
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return cls(kind="OutOfMemory", message=str(error) or "out of memory", status=507)
        text = f"{type(error).__name__}: {error}"
        return cls(kind="InternalError", message=text, status=500)


INTERRUPTED_ERROR = JobError(
    kind="Interrupted", message="the server stopped while this job ran", status=503
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One accepted request.

    `request` is resolved and `settings` are the snapshot that it runs with, both frozen when it was
    accepted. `origin` is "ui" or "api". Times are seconds since the epoch; `timings` are seconds by
    stage. Without `save_images` nothing goes to disk, with it the settings decide. `grid` is the
    contact sheet, if there is one. `cancel_requested` turns true as soon as somebody asked, before
    the job really stops. `rank` orders waiting jobs of one priority.
    """

    id: str
    request: GenerationRequest
    settings: Settings
    kind: str = "txt2img"
    origin: str = "api"
    save_images: bool = True
    status: JobStatus = JobStatus.QUEUED
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    progress: Progress = field(default_factory=Progress)
    images: tuple[JobImage, ...] = ()
    grid: JobImage | None = None
    error: JobError | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    cancel_requested: bool = False
    terms: Terms = field(default_factory=Terms)
    rank: float = 0.0

    @property
    def is_finished(self) -> bool:
        """Whether the job will never change again."""
        return self.status.is_finished


class DuplicateJob(InvalidRequest):
    """A job of this id exists already: a page or client sent the same request twice."""

    status = 409

    def __init__(self, job_id: str) -> None:
        super().__init__("force_task_id", job_id, "an id that no other job has")


class KeyReused(InvalidRequest):
    """An idempotency key came again with another request."""

    status = 422

    def __init__(self, key: str) -> None:
        super().__init__("Idempotency-Key", key, "a new key for a new request")


def new_job_id(kind: str) -> str:
    """Return a random id in the form of A1111's pages, "task(txt2img-…)"."""
    chosen = random.SystemRandom().choices(_ID_CHARACTERS, k=15)
    return f"task({kind}-{''.join(chosen)})"


MOST_PRIORITY = 100
_MAX_KEY_LENGTH = 255


def check_terms(terms: Terms) -> None:
    """Raise `InvalidRequest` unless priority and key can be used."""
    if not -MOST_PRIORITY <= terms.priority <= MOST_PRIORITY:
        allowed = f"a whole number from {-MOST_PRIORITY} to {MOST_PRIORITY}"
        raise InvalidRequest("priority", terms.priority, allowed)
    key = terms.key
    if key is not None and not (0 < len(key) <= _MAX_KEY_LENGTH and key.isprintable()):
        allowed = f"1 to {_MAX_KEY_LENGTH} printable characters"
        raise InvalidRequest("Idempotency-Key", key, allowed)


def check_job_id(job_id: str) -> None:
    """Raise `InvalidRequest` unless `job_id` can serve as an id."""
    if not job_id or len(job_id) > _MAX_ID_LENGTH or not job_id.isprintable():
        allowed = f"1 to {_MAX_ID_LENGTH} printable characters"
        raise InvalidRequest("force_task_id", job_id, allowed)
