"""What has been done since the server started, in numbers: jobs, pictures, seconds by stage."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from sdforge.engine.job import Job

# Upper ends of the classes that times are counted in, in seconds.
BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass
class Spread:
    """How often times fell into each class of `BOUNDS` (and above), and their sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


class Tally:
    """Counts finished jobs; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: Counter[tuple[str, str]] = Counter()
        self._pictures = 0
        self._stages: dict[str, Spread] = {}

    def add(self, job: Job) -> None:
        """Count a job that has ended."""
        with self._lock:
            self._jobs[job.kind, job.status.value] += 1
            self._pictures += len(job.images)
            for stage, seconds in job.timings.items():
                self._stages.setdefault(stage, Spread()).add(seconds)

    def jobs(self) -> dict[tuple[str, str], int]:
        """Return (kind, status) → number of jobs."""
        with self._lock:
            return dict(self._jobs)

    def pictures(self) -> int:
        """Return how many pictures were made."""
        return self._pictures

    def stages(self) -> dict[str, Spread]:
        """Return stage → times of it."""
        with self._lock:
            return {name: Spread(list(one.counts), one.total) for name, one in self._stages.items()}
