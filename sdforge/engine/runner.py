"""What the worker needs of the machinery below it, and the one that runs the pipeline.

A `Runner` is built, used and dropped on the model thread only (`memory_report` excepted);
everything that loads torch is imported when it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from sdforge.core.events import Event
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings
from sdforge.pipeline.context import RunContext, RunControl

if TYPE_CHECKING:
    from sdforge.core.device import DeviceInfo
    from sdforge.models.library import Library

Emit = Callable[[Event], None]


class Runner(Protocol):
    """Makes pictures on the calling thread; also the shape of test fakes."""

    def run(
        self, request: GenerationRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> Iterator[ImageResult]:
        """Yield the pictures of a resolved request; raises `Cancelled` when told to stop."""

    def preload(self, title: str, settings: Settings, emit: Emit) -> None:
        """Load a checkpoint ahead of the first job that needs it."""

    def unload(self) -> None:
        """Give back all memory that models hold; the next job loads again."""

    def memory_report(self) -> dict[str, Any]:
        """Return who holds how many bytes; may be called from any thread."""


class PipelineRunner:
    """Runs `pipeline.generate` with one memory manager and one model provider."""

    def __init__(
        self,
        library: Library,
        *,
        probe_device: Callable[[], DeviceInfo],
        flags: Mapping[str, object] | None = None,
        version: str = "",
    ) -> None:
        """Probe the device and set up the machinery; loads torch, takes seconds.

        Args:
            library: the checkpoints there are.
            probe_device: returns the device to compute on.
            flags: the start-up flags that choose data types, see `models.loader.choose_precision`.
            version: the program's, for the infotext.
        """
        from sdforge.memory.device import open_device
        from sdforge.memory.manager import MemoryManager
        from sdforge.models.loader import ModelProvider, choose_precision
        from sdforge.pipeline.conditioning import ConditioningCache

        info = probe_device()
        self._version = version
        self._memory = MemoryManager(open_device(info))
        self._models = ModelProvider(library, self._memory, precision=choose_precision(info, flags))
        self._conditioning = ConditioningCache()

    def run(
        self, request: GenerationRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> Iterator[ImageResult]:
        """Yield the pictures of a resolved request; raises `Cancelled` when told to stop."""
        from sdforge.pipeline.generate import generate

        return generate(self._context(request, settings, emit, control))

    def preload(self, title: str, settings: Settings, emit: Emit) -> None:
        """Load a checkpoint ahead of the first job that needs it."""
        from sdforge.pipeline.generate import load_bundle

        request = GenerationRequest(checkpoint=title)
        self._memory.configure(settings)
        load_bundle(self._context(request, settings, emit, RunControl()))

    def unload(self) -> None:
        """Give back all memory that models hold; the next job loads again."""
        self._conditioning.clear()
        self._models.unload()

    def memory_report(self) -> dict[str, Any]:
        """Return who holds how many bytes."""
        return asdict(self._memory.report())

    def _context(
        self, request: GenerationRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> RunContext:
        return RunContext(
            request=request,
            settings=settings,
            models=self._models,
            memory=self._memory,
            conditioning=self._conditioning,
            emit=emit,
            control=control,
            version=self._version,
        )
