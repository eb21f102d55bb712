"""A way to run requests through the whole pipeline on the tiny checkpoint."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sdforge.core.errors import NotFound
from sdforge.core.events import Event
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest, Limits, resolve, validate
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings
from sdforge.memory.device import Device
from sdforge.models.adapters.adapters import Adapters
from sdforge.models.adapters.controlnet import ControlNets
from sdforge.models.detectors.finding import Detectors
from sdforge.models.faces.restoring import Faces
from sdforge.models.preview_decoder import PreviewDecoders
from sdforge.models.upscalers.loaded import Upscalers
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
    adapters: Adapters = field(init=False)
    controlnets: ControlNets = field(init=False)
    upscalers: Upscalers = field(init=False)
    decoders: PreviewDecoders = field(init=False)
    faces: Faces = field(init=False)
    detectors: Detectors = field(init=False)
    on_event: Callable[[Event], None] = lambda event: None
    files: dict[str, bytes] = field(default_factory=dict)

    def put(self, picture: Image.Image) -> InputImage:
        """Store a picture for requests to refer to."""
        file = BytesIO()
        picture.save(file, "PNG")
        name = sha256(file.getvalue()).hexdigest()
        self.files[name] = file.getvalue()
        return InputImage(name, *picture.size)

    def read(self, image: InputImage) -> bytes:
        try:
            return self.files[image.sha256]
        except KeyError:
            raise NotFound(image.sha256) from None

    def __post_init__(self) -> None:
        library = self.parts.library
        self.controlnets = ControlNets(
            library.controlnets, self.parts.memory, compute=torch.float32
        )
        self.upscalers = Upscalers(library.upscalers, self.parts.memory, compute=torch.float32)
        self.decoders = PreviewDecoders(
            library.preview_decoders, self.parts.memory, compute=torch.float32
        )
        self.faces = Faces(library.faces, self.parts.memory)
        self.detectors = Detectors(library.detectors, self.faces, self.parts.memory)
        self.adapters = Adapters(library.loras, library.embeddings, library.hypernetworks)

    def context(self, settings: dict[str, Any] | None = None, **values: Any) -> RunContext:
        values = {"prompt": "a cat", "steps": 4, "width": 64, "height": 64, "seed": 1} | values
        request = GenerationRequest(**values)
        validate(request, Limits(pixels_per_image=2**24, images_per_job=100))
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
            adapters=self.adapters,
            emit=emit,
            control=self.control,
            read_input=self.read,
            controlnets=self.controlnets,
            upscalers=self.upscalers,
            decoders=self.decoders,
            faces=self.faces,
            detectors=self.detectors,
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
def make_pipeline(tmp_path: Path, checkpoint: Path) -> Callable[..., Pipeline]:
    """Make a pipeline over a device of the test's choice, its networks cut as finely as asked."""

    def make(device: Device, unit_cap_bytes: int | None = None) -> Pipeline:
        parts = tiny_server_parts(
            tmp_path, checkpoint, device=device, unit_cap_bytes=unit_cap_bytes
        )
        return Pipeline(parts)

    return make
