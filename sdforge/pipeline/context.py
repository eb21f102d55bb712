"""What one run carries: the request, the settings snapshot, the models, and a way to be stopped.

`RunContext` is the only thing that changes during a run. This module loads no torch, so the engine
can make controls before the model thread has started.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdforge.core.errors import Cancelled
from sdforge.core.events import Event, StageStarted
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings

if TYPE_CHECKING:
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.loader import ModelProvider
    from sdforge.pipeline.conditioning import ConditioningCache


class RunControl:
    """How other threads stop a run; it looks between steps."""

    def __init__(self) -> None:
        self.cancelled = False
        self.skip_batch = False

    def cancel(self) -> None:
        """Stop the job after the step that runs now."""
        self.cancelled = True

    def skip(self) -> None:
        """Stop the batch after the step that runs now and go on with the next."""
        self.skip_batch = True


@dataclass(slots=True, kw_only=True)
class RunContext:
    """Everything that the stages of one run share. `timings` adds up seconds by stage."""

    request: GenerationRequest
    settings: Settings
    models: ModelProvider
    memory: MemoryManager
    conditioning: ConditioningCache
    emit: Callable[[Event], None]
    control: RunControl = field(default_factory=RunControl)
    timings: dict[str, float] = field(default_factory=dict)
    version: str = ""

    @contextmanager
    def stage(self, name: str, batch: int = 0) -> Iterator[None]:
        """Announce a stage and add its time to `timings`."""
        self.emit(StageStarted(stage=name, batch=batch, batch_count=self.request.batch_count))
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.timings[name] = self.timings.get(name, 0.0) + spent

    def check_cancelled(self) -> None:
        """Raise `Cancelled` when somebody asked for it."""
        if self.control.cancelled:
            raise Cancelled("the job was interrupted")
