"""A way to run requests through the whole pipeline on the tiny checkpoint."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sdforge.core.events import Event
from sdforge.core.request import GenerationRequest, resolve
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings
from sdforge.memory.device import Device
from sdforge.pipeline.conditioning import ConditioningCache
from sdforge.pipeline.context import RunContext, RunControl
from sdforge.pipeline.generate import generate
from sdforge.sampling.names import resolve_sampler
from tests.tiny import Parts, make_checkpoint, tiny_server_parts


@dataclass
class Pipeline:
    """Loaded models and everything that a run emitted last."""

    parts: Parts
    conditioning: ConditioningCache = field(default_factory=ConditioningCache)
    events: list[Event] = field(default_factory=list)
    control: RunControl = field(default_factory=RunControl)
    on_event: Callable[[Event], None] = lambda event: None

    def context(self, settings: dict[str, Any] | None = None, **values: Any) -> RunContext:
        values = {"prompt": "a cat", "steps": 4, "width": 64, "height": 64, "seed": 1} | values
        request = GenerationRequest(**values)
        checkpoint = self.parts.library.find("")
        sampler, schedule = resolve_sampler(request.sampler, request.schedule)
        self.events, self.control = [], RunControl()

        def emit(event: Event) -> None:
            self.events.append(event)
            self.on_event(event)

        return RunContext(
            request=resolve(
                request,
                checkpoint=checkpoint.title,
                recommended=checkpoint.recommended,
                sampler=sampler,
                schedule=schedule,
            ),
            settings=Settings().with_overrides({"forge_inference_memory": 0} | (settings or {})),
            models=self.parts.provider,
            memory=self.parts.memory,
            conditioning=self.conditioning,
            emit=emit,
            control=self.control,
        )

    def start(self, settings: dict[str, Any] | None = None, **values: Any) -> Iterator[ImageResult]:
        return generate(self.context(settings, **values))

    def draw(self, settings: dict[str, Any] | None = None, **values: Any) -> list[ImageResult]:
        return list(self.start(settings, **values))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in 16 bits, so that its weights are converted into aligned memory.

    Weights mapped from a 32-bit file lie where the file has them; kernels round differently there.
    """
    path = tmp_path_factory.mktemp("half") / "half.safetensors"
    return make_checkpoint(path, dtype="F16")


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Parts]:
    parts = tiny_server_parts(tmp_path_factory.mktemp("pipeline"), checkpoint)
    yield parts
    parts.provider.unload()


@pytest.fixture
def pipeline(loaded: Parts) -> Pipeline:
    return Pipeline(loaded)


@pytest.fixture
def make_pipeline(tmp_path: Path, checkpoint: Path) -> Callable[[Device], Pipeline]:
    """Make a pipeline over a device of the test's choice."""

    def make(device: Device) -> Pipeline:
        return Pipeline(tiny_server_parts(tmp_path, checkpoint, device=device))

    return make
