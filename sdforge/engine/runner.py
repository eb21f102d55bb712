"""What the worker needs of the machinery below it, and the one that runs the pipeline.

A `Runner` is built, used and dropped on the model thread only (`memory_report` excepted);
everything that loads torch is imported when it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sdforge.core.events import Event
from sdforge.core.extension import Extension, active_extensions
from sdforge.core.frame import Frame, FrameRequest
from sdforge.core.model_choice import ModelChoice
from sdforge.core.registry import Registry
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult
from sdforge.core.script import script_of
from sdforge.core.settings import Settings
from sdforge.engine.expansion import expanded, run_all
from sdforge.engine.inputs import InputFolder
from sdforge.engine.studio import JobStudio, ReadInput, run_script
from sdforge.extensions.catalog import load_extensions
from sdforge.pipeline.context import RunContext, RunControl, no_inputs
from sdforge.pipeline.extras import ExtrasRun
from sdforge.pipeline.merge import MergeRun

if TYPE_CHECKING:
    from PIL import Image

    from sdforge.core.device import DeviceInfo
    from sdforge.models.library import Library
    from sdforge.pipeline.frames import FramePainter

Emit = Callable[[Event], None]


class Runner(Protocol):
    """Makes pictures on the calling thread; also the shape of test fakes."""

    def run(
        self, request: GenerationRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> Iterator[ImageResult]:
        """Yield the pictures of a resolved request; raises `Cancelled` when told to stop."""

    def frame(
        self, wanted: FrameRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> Frame:
        """Draw one frame of live mode; raises `Cancelled` when told to stop."""

    def preload(self, title: str, settings: Settings, emit: Emit) -> None:
        """Load a checkpoint ahead of the first job that needs it."""

    def expect(self, choices: Sequence[ModelChoice], settings: Settings) -> None:
        """Prepare for the models that are in use and that later jobs need, soonest first."""

    def unload(self) -> None:
        """Give back all memory that models hold; the next job loads again."""

    def unload_one(self, title: str) -> None:
        """Give back the memory of one checkpoint."""

    def leave_device(self) -> None:
        """Take all models off the device; they stay in main memory."""

    def tend(self) -> bool:
        """Give back what the machine needs or nobody used for long; True when none is left."""

    def wants_tending(self) -> bool:
        """Say whether `tend` would do anything; may be called from any thread."""

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
        extensions: Registry[Extension] | None = None,
        calibration: Path | None = None,
        inputs: InputFolder | None = None,
    ) -> None:
        """Probe the device and set up the machinery; loads torch, takes seconds.

        Args:
            library: the checkpoints there are.
            probe_device: returns the device to compute on.
            flags: the start-up flags that choose data types and the attention kernel.
            version: the program's, for the infotext.
            extensions: those that requests may use; None for the ones that ship.
            calibration: file of what earlier runs taught about memory; None keeps nothing.
            inputs: where pictures lie that requests refer to; without it there are none.
        """
        from sdforge.memory.calibration import Calibration
        from sdforge.memory.device import open_device
        from sdforge.memory.learning import Learning
        from sdforge.memory.manager import MemoryManager
        from sdforge.models.adapters.adapters import Adapters
        from sdforge.models.adapters.controlnet import ControlNets
        from sdforge.models.attention_kernels import chosen_kernel
        from sdforge.models.detectors.finding import Detectors
        from sdforge.models.faces.restoring import Faces
        from sdforge.models.loader import ModelProvider, choose_precision
        from sdforge.models.preview_decoder import PreviewDecoders
        from sdforge.models.upscalers.loaded import Upscalers
        from sdforge.pipeline.conditioning import ConditioningCache
        from sdforge.pipeline.first_pass import FirstPasses

        info = probe_device()
        self._version = version
        self._library = library
        self._inputs = inputs
        self._extensions = load_extensions() if extensions is None else extensions
        on_cpu = frozenset({"vae"} if (flags or {}).get("vae_in_cpu") else ())
        device = open_device(info)
        learning = Learning(Calibration(calibration), info.name, counts_peaks=device.counts_peaks)
        self._memory = MemoryManager(device, cpu_roles=on_cpu, learning=learning)
        precision = choose_precision(info, flags)
        kernel = chosen_kernel(flags or {})
        self._models = ModelProvider(library, self._memory, precision=precision, attention=kernel)
        compute = precision.denoiser
        self._controlnets = ControlNets(library.controlnets, self._memory, compute=compute)
        self._upscalers = Upscalers(library.upscalers, self._memory, compute=compute)
        self._faces = Faces(library.faces, self._memory)
        self._detectors = Detectors(library.detectors, self._faces, self._memory)
        self._conditioning = ConditioningCache()
        self._first_passes = FirstPasses()
        self._adapters = Adapters(library.loras, library.embeddings, library.hypernetworks)
        self._decoders = PreviewDecoders(library.preview_decoders, self._memory, compute=compute)
        self._painter: FramePainter | None = None

    def run(
        self, request: GenerationRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> Iterator[ImageResult]:
        """Yield the pictures of a resolved request; raises `Cancelled` when told to stop."""
        from sdforge.pipeline.generate import generate
        from sdforge.pipeline.upscaling import picture_upscaler
        from sdforge.postprocess.upscalers import enlarged

        self._memory.configure(settings)
        if self._painter is not None:
            self._painter.interrupted()
        read = no_inputs if self._inputs is None else self._inputs.read
        if request.merge is not None:
            run_merge = MergeRun(
                merge=request.merge, library=self._library, emit=emit, control=control
            )
            return run_merge.pictures()
        if request.extras is not None:
            return ExtrasRun(
                request=request,
                settings=settings,
                upscalers=self._upscalers,
                faces=self._faces,
                emit=emit,
                control=control,
                read_input=read,
            ).pictures()

        def run_one(request: GenerationRequest, emit: Emit) -> Iterator[ImageResult]:
            return generate(self._context(request, settings, emit, control, read))

        def run(request: GenerationRequest, emit: Emit) -> Iterator[ImageResult]:
            return run_all(expanded(request, active), run_one, emit)

        active = active_extensions(self._extensions, request.extensions, settings)
        found = script_of(active)
        if found is None:
            return run(request, emit)
        script, values = found
        context = self._context(request, settings, emit, control, read)

        def enlarge(image: Image.Image, width: int, height: int, name: str) -> Image.Image:
            return enlarged(image, width, height, picture_upscaler(context, name))

        batches = script.batch_count(request, values)
        studio = JobStudio(settings, run, emit, read, batches, enlarge)
        read = studio.read
        return run_script(script, values, request, studio)

    def frame(
        self, wanted: FrameRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> Frame:
        """Draw one frame of live mode; raises `Cancelled` when told to stop."""
        if self._painter is None:
            from sdforge.pipeline.frames import FramePainter

            self._painter = FramePainter(self._decoders)
        context = self._context(
            wanted.request, settings, emit, control, lambda image: wanted.picture
        )
        return self._painter.draw(context, wanted)

    def preload(self, title: str, settings: Settings, emit: Emit) -> None:
        """Load a checkpoint ahead of the first job that needs it."""
        from sdforge.pipeline.generate import load_bundle

        request = GenerationRequest(checkpoint=title)
        self._memory.configure(settings)
        load_bundle(self._context(request, settings, emit, RunControl()))

    def expect(self, choices: Sequence[ModelChoice], settings: Settings) -> None:
        """Keep the models that are in use or come soon, and read the first other one ahead.

        Raises:
            SdforgeError: the next one cannot be loaded.
        """
        filled = [replace(choice, vae=choice.vae or settings.sd_vae) for choice in choices]
        self._models.expect(filled, modules=settings.forge_additional_modules)

    def unload(self) -> None:
        """Give back all memory that models hold; the next job loads again."""
        self._forget_texts()
        self._first_passes.clear()
        self._adapters.forget()
        self._controlnets.unload()
        self._upscalers.unload()
        self._decoders.unload()
        self._faces.unload()
        self._detectors.unload()
        self._models.unload()

    def unload_one(self, title: str) -> None:
        """Give back the memory of one checkpoint. Raises `UnknownName`."""
        self._forget_texts()
        self._models.unload_one(title)

    def leave_device(self) -> None:
        """Take all models off the device; they stay in main memory."""
        self._forget_texts()
        self._memory.evict_all()

    def tend(self) -> bool:
        """Give back what the machine needs or nobody used for long; True when none is left."""
        if self._models.tend():
            # Whatever the reason, what only goes with checkpoints leaves first.
            self._controlnets.unload()
            self._upscalers.unload()
            self._decoders.unload()
            self._faces.unload()
            self._detectors.unload()
            if self._models.current is None:
                self._forget_texts()
                self._first_passes.clear()
        return self._models.current is None

    def wants_tending(self) -> bool:
        """Say whether `tend` would do anything; may be called from any thread."""
        return self._models.store.wants_tending()

    def memory_report(self) -> dict[str, Any]:
        """Return who holds how many bytes."""
        return {
            **asdict(self._memory.report()),
            "host": asdict(self._models.report()),
            "host_controlnets": asdict(self._controlnets.report()),
            "host_upscalers": asdict(self._upscalers.report()),
            "host_decoders": asdict(self._decoders.report()),
            "host_faces": asdict(self._faces.report()),
            "host_detectors": asdict(self._detectors.report()),
        }

    def _forget_texts(self) -> None:
        """Drop encoded texts, and what is kept from one live frame to the next."""
        self._conditioning.clear()
        if self._painter is not None:
            self._painter.forget()

    def _context(
        self,
        request: GenerationRequest,
        settings: Settings,
        emit: Emit,
        control: RunControl,
        read: ReadInput = no_inputs,
    ) -> RunContext:
        self._models.configure(settings)
        return RunContext(
            request=request,
            settings=settings,
            models=self._models,
            memory=self._memory,
            conditioning=self._conditioning,
            first_passes=self._first_passes,
            adapters=self._adapters,
            emit=emit,
            control=control,
            version=self._version,
            read_input=read,
            extensions=active_extensions(self._extensions, request.extensions, settings),
            controlnets=self._controlnets,
            upscalers=self._upscalers,
            decoders=self._decoders,
            faces=self._faces,
            detectors=self._detectors,
        )
