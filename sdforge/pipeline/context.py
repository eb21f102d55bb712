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

from sdforge.core.errors import Cancelled, NotFound
from sdforge.core.events import Event, StageStarted
from sdforge.core.extension import Active
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings

if TYPE_CHECKING:
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.adapters.adapters import Adapters
    from sdforge.models.adapters.controlnet import ControlNets
    from sdforge.models.detectors.finding import Detectors
    from sdforge.models.faces.restoring import Faces
    from sdforge.models.loader import ModelProvider
    from sdforge.models.preview_decoder import PreviewDecoders
    from sdforge.models.upscalers.loaded import Upscalers
    from sdforge.pipeline.conditioning import ConditioningCache
    from sdforge.pipeline.first_pass import FirstPasses


# Stages in which a job that was stopped still shows what it had reached.
_FINISHING = ("decode", "faces")


def no_inputs(image: InputImage) -> bytes:
    """Refuse to read a picture: there is no folder of them."""
    raise NotFound(f"there is no folder of inputs to find picture {image.sha256[:12]} in")


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
    """Everything that the stages of one run share.

    `timings` adds up seconds by stage; `read_input` returns the file of a picture that the request
    refers to; `first_passes` keeps latents between runs, without it all passes are drawn.
    """

    request: GenerationRequest
    settings: Settings
    models: ModelProvider
    memory: MemoryManager
    conditioning: ConditioningCache
    adapters: Adapters
    emit: Callable[[Event], None]
    control: RunControl = field(default_factory=RunControl)
    timings: dict[str, float] = field(default_factory=dict)
    version: str = ""
    extensions: tuple[Active, ...] = ()
    controlnets: ControlNets | None = None
    upscalers: Upscalers | None = None
    decoders: PreviewDecoders | None = None
    faces: Faces | None = None
    detectors: Detectors | None = None
    first_passes: FirstPasses | None = None
    read_input: Callable[[InputImage], bytes] = no_inputs

    @property
    def tiling(self) -> bool:
        """Whether opposite edges of the pictures shall fit."""
        asked = self.request.tiling
        return self.settings.tiling if asked is None else asked

    @contextmanager
    def stage(self, name: str, batch: int = 0) -> Iterator[None]:
        """Announce a stage and add its time to `timings`.

        Raises:
            Cancelled: the job was, and the stage is none that finishes what had been reached.
        """
        if name not in _FINISHING:
            self.check_cancelled()
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
