"""A runner that draws small pictures without any model, and an engine around it.

`FakeRunner` follows the `Runner` protocol step by step, honours its control like the pipeline does,
and can be told to stop at a gate, so that tests see the engine in the middle of a job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdforge.core.errors import Cancelled, UnknownName
from sdforge.core.events import Event, ModelLoading, PreviewReady, StageStarted, StepDone
from sdforge.core.frame import Frame, FrameRequest
from sdforge.core.model_choice import ModelChoice
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest, Recommended
from sdforge.core.result import GenerationInfo, ImageResult, ModelIdentity
from sdforge.core.settings import Settings, SettingsStore
from sdforge.engine import Engine
from sdforge.engine.inputs import InputFolder
from sdforge.models.detectors.library import DetectorLibrary
from sdforge.models.faces.library import FaceLibrary
from sdforge.models.tokenizers import Tokenizer, clip_tokenizer
from sdforge.pipeline.context import RunControl
from sdforge.pipeline.extras import ExtrasRun
from sdforge.pipeline.merge import MergeRun

Emit = Callable[[Event], None]
PATIENCE = 20.0


@dataclass(frozen=True)
class FakeCheckpoint:
    title: str
    recommended: Recommended = Recommended(width=64, height=64, cfg_scale=3.0)
    error: str | None = None
    family: str | None = "sd1"
    refers: int = 0

    @property
    def path(self) -> Path:
        """A file that does not exist: no memory mode can be chosen for it."""
        return Path("nowhere") / self.title


class FakeUpscalers:
    """No upscaler files."""

    def names(self) -> list[str]:
        return []

    def canonical(self, name: str) -> str | None:
        return None


class FakeLibrary:
    """Three checkpoints, one broken; unlike the real library it looks at no files."""

    def __init__(self) -> None:
        self.known = [
            FakeCheckpoint("cat.safetensors"),
            FakeCheckpoint("dog.safetensors"),
            FakeCheckpoint("half.safetensors", error="half.safetensors is truncated"),
        ]

        self.upscalers = FakeUpscalers()
        self.faces = FaceLibrary(Paths.under(Path("nowhere")))
        self.detectors = DetectorLibrary(Paths.under(Path("nowhere")), self.faces)

    def checkpoints(self) -> list[Any]:
        return list(self.known)

    def refresh(self) -> None:
        """Nothing is cached."""

    def tokenizer(self) -> Tokenizer:
        return clip_tokenizer()

    def find_vae(self, name: str, info: FakeCheckpoint) -> Path | None:
        return None

    def modules(self) -> list[Any]:
        return []

    def find_modules(self, names: Any) -> tuple[Path, ...]:
        for name in names:
            raise UnknownName("VAE or text encoder", name, [], "forge_additional_modules")
        return ()

    def find(self, name: str) -> FakeCheckpoint:
        if not name:
            return self.known[0]
        for checkpoint in self.known:
            if name in (checkpoint.title, checkpoint.title.split(".")[0]):
                return checkpoint
        titles = [checkpoint.title for checkpoint in self.known]
        raise UnknownName("checkpoint", name, titles, "sd_model_checkpoint")


@dataclass
class FakeRunner:
    """Draws batches of plain pictures in `steps` steps each.

    Prompts steer it: "raise" fails before the first picture, "raise late" after the first batch,
    "exit" calls for the end of the process. `gate_step` makes every job wait at that step until
    `gate` is set; `reached` tells that one has come there.
    """

    loads: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    settings: list[Settings] = field(default_factory=list)
    gate_step: int | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    reached: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    unloads: int = 0
    expected: list[tuple[ModelChoice, ...]] = field(default_factory=list)
    left_device: int = 0
    must_tend: bool = False
    # Where pictures for extras lie, which are processed in earnest: they need no model.
    inputs: InputFolder | None = None
    # The files that merges find, which are done in earnest too.
    library: Any = None

    def frame(
        self, wanted: FrameRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> Frame:
        """Return a plain picture; prompts steer it as they do jobs."""
        request = wanted.request
        self.ran.append(request.prompt)
        self.threads.add(threading.current_thread().name)
        emit(StageStarted(stage="load"))
        self._load(request.checkpoint, emit)
        if request.prompt == "raise":
            raise RuntimeError("the fake broke")
        pixels = np.full((request.height or 8, request.width or 8, 3), request.seed % 256, np.uint8)
        timings = {"encode": 0.001, "denoise": 0.002, "decode": 0.001}
        return Frame(pixels=pixels, decoder=wanted.decoder, timings=timings)

    def run(
        self, request: GenerationRequest, settings: Settings, emit: Emit, control: RunControl
    ) -> Iterator[ImageResult]:
        self.ran.append(request.prompt)
        self.settings.append(settings)
        self.threads.add(threading.current_thread().name)
        if request.merge is not None:
            yield from MergeRun(
                merge=request.merge, library=self.library, emit=emit, control=control
            ).pictures()
            return
        if request.extras is not None and self.inputs is not None:
            run = ExtrasRun(
                request=request, settings=settings, upscalers=None, emit=emit, control=control,
                read_input=self.inputs.read,
            )  # fmt: skip
            yield from run.pictures()
            return
        emit(StageStarted(stage="load"))
        self._load(request.checkpoint, emit)
        emit(StageStarted(stage="encode", batch_count=request.batch_count))
        if request.prompt == "raise":
            raise RuntimeError("the fake broke")
        if request.prompt == "exit":
            raise SystemExit(3)
        for batch in range(request.batch_count):
            if control.cancelled:
                raise Cancelled("stopped")
            control.skip_batch = False
            complete = self._steps(request, batch, emit, control)
            emit(StageStarted(stage="decode", batch=batch, batch_count=request.batch_count))
            for row in range(request.batch_size):
                yield _picture(request, batch * request.batch_size + row, complete)
            if control.cancelled and not complete:
                raise Cancelled("stopped")
            if request.prompt == "raise late":
                raise RuntimeError("the fake broke")

    def preload(self, title: str, settings: Settings, emit: Emit) -> None:
        self.threads.add(threading.current_thread().name)
        self._load(title, emit)

    def expect(self, choices: Sequence[ModelChoice], settings: Settings) -> None:
        self.expected.append(tuple(choices))

    def unload(self) -> None:
        self.unloads += 1
        self.loads.clear()

    def unload_one(self, title: str) -> None:
        self.loads.remove(title)

    def leave_device(self) -> None:
        self.left_device += 1

    def tend(self) -> bool:
        self.must_tend = False
        self.threads.add(threading.current_thread().name)
        self.loads.clear()
        return True

    def wants_tending(self) -> bool:
        return self.must_tend

    def memory_report(self) -> dict[str, Any]:
        return {"loaded": list(self.loads)}

    def _load(self, title: str, emit: Emit) -> None:
        if title == "dog.safetensors":
            emit(ModelLoading(name=title, fraction=0.5))
            raise RuntimeError("the dog's weights are damaged")
        if self.loads[-1:] != [title]:
            emit(ModelLoading(name=title, fraction=0.5))
            self.loads.append(title)

    def _steps(
        self, request: GenerationRequest, batch: int, emit: Emit, control: RunControl
    ) -> bool:
        emit(StageStarted(stage="denoise", batch=batch, batch_count=request.batch_count))
        for step in range(1, request.steps + 1):
            emit(
                StepDone(
                    step=step, steps=request.steps, batch=batch, batch_count=request.batch_count
                )
            )
            emit(PreviewReady(image=bytes([step]), media_type="image/jpeg", step=step))
            if step == self.gate_step:
                self.reached.release()
                if not self.gate.wait(PATIENCE):
                    raise TimeoutError("the test never opened the gate")
            if control.cancelled or control.skip_batch:
                return False
        return True


def _picture(request: GenerationRequest, index: int, complete: bool) -> ImageResult:
    assert request.height and request.width
    seed = request.image_seed(index)
    pixels = np.full((request.height, request.width, 3), seed % 256, np.uint8)
    info = GenerationInfo(
        request=request,
        index=index,
        seed=seed,
        subseed=request.subseed,
        prompt=request.image_prompt(index),
        negative_prompt=request.image_negative_prompt(index),
        model=ModelIdentity(title=request.checkpoint, name="cat"),
        version="test",
    )
    return ImageResult(pixels=pixels, info=info, index=index, is_complete=complete)


def make_engine(
    data: Path, runner: FakeRunner | None = None, **settings: Any
) -> tuple[Engine, FakeRunner]:
    """Return an engine on a data folder that is not started yet, and its runner."""
    runner = runner or FakeRunner()
    engine = Engine(
        paths=Paths.under(data),
        settings=SettingsStore(None, settings),
        library=FakeLibrary(),
        make_runner=lambda: runner,
        version="test",
    )
    return engine, runner


def a_request(prompt: str = "a cat", **values: Any) -> GenerationRequest:
    """Return a request for one small picture with a known seed."""
    values = {"steps": 4, "seed": 7, "width": 64, "height": 64} | values
    return GenerationRequest(prompt=prompt, **values)
