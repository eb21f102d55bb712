"""Which job a thread works on, so that every line of its log can say so."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_JOB: ContextVar[str] = ContextVar("sdforge_job", default="")


@contextmanager
def working_on(job_id: str) -> Iterator[None]:
    """Let what this thread logs meanwhile name a job."""
    token = _JOB.set(job_id)
    try:
        yield
    finally:
        _JOB.reset(token)


class JobFilter(logging.Filter):
    """Gives each record the attribute `job`: "" or "[id] "."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with the attribute."""
        job_id = _JOB.get()
        record.job = f"[{job_id}] " if job_id and job_id not in record.getMessage() else ""
        return True
