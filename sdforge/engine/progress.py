"""How far a job is, computed from its events.

A fold over events that knows nothing of threads or jobs; `job_run.py` feeds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from sdforge.core.events import Event, ModelLoading, Notice, StageStarted, StepDone
from sdforge.engine.job import Progress

# What A1111 reports as soon as a job has begun.
STARTED_FRACTION = 0.01


class ProgressMeter:
    """Turns events into `Progress`, and measures the time that each stage took."""

    def __init__(self, batch_count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage_began = clock()
        self._drawing_began: float | None = None
        self.timings: dict[str, float] = {}
        self.progress = Progress(
            fraction=STARTED_FRACTION, stage="load", batch_count=batch_count, text="Loading"
        )

    def update(self, event: Event) -> Progress:
        """Take account of one event and return the new state."""
        if isinstance(event, ModelLoading):
            self._enter("load")
            text = f"Loading {event.name}: {event.fraction:.0%}"
            self.progress = replace(self.progress, text=text)
        elif isinstance(event, Notice):
            known = dict.fromkeys((*self.progress.notices, event.text))
            self.progress = replace(self.progress, notices=tuple(known))
        elif isinstance(event, StageStarted):
            self._start_stage(event)
        elif isinstance(event, StepDone):
            self._enter(event.stage)
            self.progress = replace(
                self.progress,
                step=event.step,
                steps=event.steps,
                batch=event.batch,
                batch_count=event.batch_count,
                text=_batch_text(event.batch, event.batch_count),
            )
        self._estimate()
        return self.progress

    def finish(self) -> None:
        """Close the last stage, so that `timings` (seconds by stage) are whole."""
        self._enter("")

    def _start_stage(self, event: StageStarted) -> None:
        self._enter(event.stage)
        text = {
            "load": "Loading",
            "encode": "Reading the prompt",
            "input": "Reading the picture",
            "reuse": "Taking the first pass as it was drawn before",
            "upscale": "Enlarging",
            "faces": "Restoring faces",
            "detect": "Looking for details",
            "decode": "Decoding",
        }
        now = self.progress
        # A batch that was skipped never reached its last step, so the count starts over with each.
        step = now.step if event.batch == now.batch else 0
        self.progress = replace(
            now,
            step=step,
            batch=event.batch,
            batch_count=event.batch_count,
            text=text.get(event.stage, _batch_text(event.batch, event.batch_count)),
        )

    def _enter(self, stage: str) -> None:
        if stage == self.progress.stage:
            return
        now = self._clock()
        spent = now - self._stage_began
        past = self.progress.stage
        self.timings[past] = self.timings.get(past, 0.0) + spent
        self._stage_began = now
        if stage not in ("load", "") and self._drawing_began is None:
            self._drawing_began = now
        self.progress = replace(self.progress, stage=stage)

    def _estimate(self) -> None:
        now = self.progress
        # A1111: finished batches plus the share of the running one, plus one percent.
        share = (now.batch + (now.step / now.steps if now.steps else 0.0)) / now.batch_count
        eta = None
        # Counted from the end of loading, which says nothing about the speed of sampling.
        if share > 0 and self._drawing_began is not None:
            elapsed = self._clock() - self._drawing_began
            eta = max(0.0, elapsed / min(share, 1.0) - elapsed)
        fraction = min(1.0, STARTED_FRACTION + share)
        self.progress = replace(now, fraction=max(fraction, now.fraction), eta_seconds=eta)


def _batch_text(batch: int, batch_count: int) -> str:
    return f"Batch {batch + 1} out of {batch_count}" if batch_count > 1 else ""
