"""Extras run upscalers, stop between tiles, and keep what a picture said of itself."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdforge.core.errors import Cancelled, CorruptCheckpoint, InvalidRequest, NotFound, UnknownName
from sdforge.core.events import Event, StageStarted, StepDone
from sdforge.core.extras import Extras
from sdforge.core.inputs import InputImage
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.memory.manager import MemoryManager
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.faces.restoring import Faces
from sdforge.models.upscalers.library import UpscalerLibrary
from sdforge.models.upscalers.loaded import Upscalers
from sdforge.pipeline.context import RunControl
from sdforge.pipeline.extras import ExtrasRun
from tests.tiny_upscalers import compact_shape, random_weights, write_upscaler

SHIPPED = "R-ESRGAN AnimeVideo"


class Bench:
    """Runs extras on a simulated device and keeps what they emit."""

    def __init__(self, folder: Path) -> None:
        paths = Paths.under(folder)
        write_upscaler(paths.upscalers[0] / "Twice.safetensors", random_weights(compact_shape(2)))
        write_upscaler(paths.upscalers[0] / "Clean.safetensors", random_weights(compact_shape(1)))
        self.device = SimulatedDevice(2**28)
        memory = MemoryManager(self.device)
        memory.inference_bytes = 0
        self.upscalers = Upscalers(UpscalerLibrary(paths), memory, compute=torch.float32)
        self.faces: Faces | None = None
        self.control = RunControl()
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda event: None
        self.files: dict[str, bytes] = {}

    def put(self, picture: Image.Image, **options: Any) -> InputImage:
        file = BytesIO()
        picture.save(file, **{"format": "PNG"} | options)
        name = f"{len(self.files):064x}"
        self.files[name] = file.getvalue()
        return InputImage(name, *picture.size)

    def read(self, image: InputImage) -> bytes:
        if image.sha256 not in self.files:
            raise NotFound(image.sha256)
        return self.files[image.sha256]

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.on_event(event)

    def run(
        self, *images: InputImage, settings: dict[str, Any] | None = None, **values: Any
    ) -> Any:
        request = GenerationRequest(
            init_images=images, extras=Extras(**values), batch_count=len(images)
        )
        return ExtrasRun(
            request=request,
            settings=Settings().with_overrides(settings or {}),
            upscalers=self.upscalers,
            faces=self.faces,
            emit=self.emit,
            control=self.control,
            read_input=self.read,
        ).pictures()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_a_model_makes_any_size(bench: Bench) -> None:
    source = bench.put(noise(20, 12))
    for factor in (0.5, 1, 1.5, 2, 3, 4, 5, 9):
        (made,) = bench.run(source, upscaler="Twice", factor=factor)
        assert made.pixels.shape == (int(12 * factor), int(20 * factor), 3)
    (made,) = bench.run(source, upscaler=SHIPPED, resize_mode=1, width=33, height=55)
    assert made.pixels.shape == (55, 33, 3)


def test_a_model_that_only_cleans_runs_at_the_same_size(bench: Bench) -> None:
    picture = noise(20, 12)
    (made,) = bench.run(bench.put(picture), upscaler="Clean", factor=1)
    assert made.pixels.shape == (12, 20, 3)
    assert not np.array_equal(made.pixels, np.asarray(picture))


def test_two_models_are_mixed(bench: Bench) -> None:
    source = bench.put(noise(16, 16))
    one, two, mixed = (
        next(bench.run(source, **values)).pixels.astype(int)
        for values in (
            {"upscaler": "Twice"},
            {"upscaler": SHIPPED},
            {"upscaler": "Twice", "second_upscaler": SHIPPED, "second_visibility": 0.5},
        )
    )
    assert np.abs(mixed - (one + two) / 2).max() <= 1
    steps = [event for event in bench.events if isinstance(event, StepDone)]
    assert {event.stage for event in steps} == {"upscale"}
    assert (steps[-1].step, steps[-1].steps) == (2, 2)


def test_cancelling_ends_between_tiles_and_gives_all_memory_back(bench: Bench) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and (event.batch, event.step) == (1, 2):
            bench.control.cancel()

    bench.on_event = stop
    made = []
    with pytest.raises(Cancelled):
        for one in bench.run(
            bench.put(noise(40, 40)), bench.put(noise(90, 90)), upscaler="Twice",
            settings={"ESRGAN_tile": 48},
        ):  # fmt: skip
            made.append(one)
    assert [one.index for one in made] == [0]
    last = [event for event in bench.events if isinstance(event, StepDone)][-1]
    assert last.step < last.steps
    bench.upscalers.unload()
    assert bench.device.own_bytes() == 0


def test_skipping_goes_on_with_the_next_picture(bench: Bench) -> None:
    def skip(event: Event) -> None:
        if isinstance(event, StepDone) and event.batch == 0:
            bench.control.skip()

    bench.on_event = skip
    images = [bench.put(noise(side, side)) for side in (20, 22)]
    assert [one.index for one in bench.run(*images, upscaler="Twice")] == [1]


def test_progress_counts_pictures_and_tiles(bench: Bench) -> None:
    images = [bench.put(noise(80, 40)), bench.put(noise(16, 16))]
    list(bench.run(*images, upscaler="Twice", settings={"ESRGAN_tile": 48}))
    assert StageStarted(stage="upscale", batch=1, batch_count=2) in bench.events
    steps = [
        (event.batch, event.step, event.steps)
        for event in bench.events
        if isinstance(event, StepDone)
    ]
    assert steps[-1] == (1, 1, 1)
    assert steps[-2][1] == steps[-2][2] > 1


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "LA", "I;16", "1"])
def test_pictures_of_any_kind_are_read(bench: Bench, mode: str) -> None:
    picture = noise(9, 7).convert("L").convert("I").convert("I;16") if mode == "I;16" else (
        noise(9, 7).convert(mode)
    )  # fmt: skip
    form = "TIFF" if mode == "CMYK" else "PNG"
    (made,) = bench.run(bench.put(picture, format=form), upscaler="Lanczos", factor=3)
    assert made.pixels.shape == (21, 27, 3)


def test_what_the_picture_said_is_kept(bench: Bench) -> None:
    exif = Image.Exif()
    text = "a fox\nSteps: 5, Sampler: Euler, Seed: 9, Size: 8x8"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    source = bench.put(noise(8, 8), format="JPEG", exif=exif)
    (made,) = bench.run(source, upscaler="Nearest", names=("fox",))
    assert made.processed.infotext == text
    assert (made.processed.name, made.info.seed) == ("fox", 9)
    assert dict(made.processed.steps) == {
        "Postprocess upscale by": "2",
        "Postprocess upscaler": "Nearest",
    }


def test_errors_name_what_is_wrong(bench: Bench, tmp_path: Path) -> None:
    source = bench.put(noise(40, 40))
    with pytest.raises(UnknownName, match="Twice"):
        list(bench.run(source, upscaler="Twicer"))
    with pytest.raises(NotFound):
        list(bench.run(InputImage("f" * 64, 3, 3), upscaler="Twice"))
    with pytest.raises(InvalidRequest, match="on the way"):
        list(bench.run(source, upscaler=SHIPPED, settings={"max_pixels_per_image": 4096}))
    (tmp_path / "models/ESRGAN/Twice.safetensors").write_text("<html>not found")
    with pytest.raises(CorruptCheckpoint, match="web page"):
        list(bench.run(source, upscaler="Twice"))
