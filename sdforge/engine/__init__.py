"""Jobs: accepted, queued on disk, run one after another on one model thread, reported as events.

Above are the API and the page, which only talk to `engine.Engine`; below is the pipeline, which
knows nothing of jobs. Reading order: `job.py` (the data), `engine.py` (the facade), `resolution.py`
(requests with nothing left open), `inputs.py` (clients' pictures), `picture_batch.py` (one job for
each of many), `queue.py` and `waiting.py` (who is next), `worker.py` and `job_run.py` (the model
thread), `between.py` (what runs between jobs), `runner.py` (the way down into the pipeline),
`event_log.py`, `progress.py`, `picture_cache.py`, `store.py` (SQLite), `history.py` (the pictures
on disk). Importing this package loads no torch.
"""

from sdforge.engine.engine import Engine
from sdforge.engine.event_log import Subscription
from sdforge.engine.job import (
    ACTIVE,
    DuplicateJob,
    Job,
    JobError,
    JobImage,
    JobStatus,
    Progress,
    Terms,
    check_job_id,
)
from sdforge.engine.runner import PipelineRunner, Runner

__all__ = [
    "ACTIVE",
    "DuplicateJob",
    "Engine",
    "Job",
    "JobError",
    "JobImage",
    "JobStatus",
    "PipelineRunner",
    "Progress",
    "Runner",
    "Subscription",
    "Terms",
    "check_job_id",
]
