"""What happens during a job, as data.

The pipeline emits these without knowing about jobs; the engine adds the job's id and passes them
to whoever listens (REST, server-sent events, the page). All are frozen and picklable.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, kw_only=True)
class JobQueued(Event):
    """The job was accepted; `position` jobs run before it."""

    position: int


@dataclass(frozen=True, kw_only=True)
class JobStarted(Event):
    """A worker took the job."""


@dataclass(frozen=True, kw_only=True)
class ModelLoading(Event):
    """Weights are being read; `fraction` goes from 0 to 1."""

    name: str
    fraction: float


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """A stage began; batches count from 0.

    'load', 'encode' (prompts), 'input' (pictures given), 'denoise', 'upscale', 'decode'; 'reuse'
    stands in for a 'denoise' whose result is known.
    """

    stage: str
    batch: int = 0
    batch_count: int = 1


@dataclass(frozen=True, kw_only=True)
class StepDone(Event):
    """`step` of `steps` sampling steps of a batch are finished (1-based); batches count from 0.

    `steps` is 0 when nobody can know how many there will be (DPM adaptive). Where nothing is
    sampled it counts the tiles of another `stage`.
    """

    step: int
    steps: int
    batch: int
    batch_count: int
    stage: str = "denoise"


@dataclass(frozen=True, kw_only=True)
class PreviewReady(Event):
    """An encoded picture of what the latents look like now."""

    image: bytes
    media_type: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something that the user should know of, though the job goes on."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ImageSaved(Event):
    """A finished picture was written to disk."""

    index: int
    path: str


@dataclass(frozen=True, kw_only=True)
class JobFinished(Event):
    """The job ended; `status` is 'done', 'failed' or 'cancelled'."""

    status: str
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """An event of one job, numbered from 1 within it."""

    job_id: str
    sequence: int
    event: Event
