"""Wherever a job is cancelled, at most the step that runs is finished: units, scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdforge.core.control import ControlUnit
from sdforge.core.device import probe
from sdforge.core.errors import Cancelled
from sdforge.core.events import Event, StageStarted, StepDone
from sdforge.core.inputs import InputImage
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest, Recommended, resolve
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings
from sdforge.engine.inputs import InputFolder
from sdforge.engine.runner import PipelineRunner
from sdforge.models.adapters import controlnet
from sdforge.models.library import Library
from sdforge.pipeline.context import RunControl
from tests.tiny import make_checkpoint
from tests.tiny_control import make_controlnet

SETTINGS = Settings().with_overrides({"forge_inference_memory": 0})
# Stages that only bring to an end what had been reached.
ENDING = {"decode"}


@dataclass
class Workshop:
    """A runner over the tiny checkpoint, and a picture to start from."""

    runner: PipelineRunner
    library: Library
    picture: InputImage

    def request(self, **values: Any) -> GenerationRequest:
        values = {
            "prompt": "a cat", "steps": 2, "width": 64, "height": 64, "seed": 1, "sampler": "Euler",
        } | values  # fmt: skip
        return resolve(
            GenerationRequest(**values),
            checkpoint=self.library.find("").title,
            recommended=Recommended(),
            sampler="Euler",
            schedule="Uniform",
        )

    def redrawn(self, script: str, **values: Any) -> GenerationRequest:
        return self.request(
            init_images=(self.picture,), denoising_strength=0.9, extensions={script: values}
        )


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    paths = Paths.under(tmp_path_factory.mktemp("stopping"))
    make_checkpoint(paths.checkpoints[0] / "half.safetensors", dtype="F16")
    make_controlnet(paths.controlnets[0] / "canny.safetensors")
    library, inputs = Library(paths), InputFolder(paths.inputs)
    file = BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    picture = inputs.put(file.getvalue(), "image", max_pixels=2**20)
    runner = PipelineRunner(library, probe_device=lambda: probe(force_cpu=True), inputs=inputs)
    yield Workshop(runner, library, picture)
    runner.unload()


def run(
    workshop: Workshop, request: GenerationRequest, stop_at: int | None = None
) -> tuple[list[Event], list[ImageResult], bool]:
    """Return the counted events, the pictures, and whether the job was cancelled.

    With `stop_at` it is cancelled as soon as that event has come.
    """
    control, events, made = RunControl(), list[Event](), list[ImageResult]()

    def emit(event: Event) -> None:
        if isinstance(event, (StageStarted, StepDone)):
            events.append(event)
            if len(events) - 1 == stop_at:
                control.cancel()

    try:
        made.extend(workshop.runner.run(request, SETTINGS, emit, control))
    except Cancelled:
        return events, made, True
    return events, made, False


def controlled(workshop: Workshop) -> GenerationRequest:
    unit = ControlUnit(model="canny", module="canny", image=workshop.picture)
    return workshop.request(control=(unit, replace(unit, module="invert")))


def loopback(workshop: Workshop) -> GenerationRequest:
    return workshop.redrawn("loopback", loops=2)


def sd_upscale(workshop: Workshop) -> GenerationRequest:
    request = workshop.redrawn("sd_upscale", overlap=16, upscaler="Lanczos", scale=1.25)
    return replace(request, height=96)


@pytest.mark.parametrize("made", [controlled, loopback, sd_upscale], ids=lambda one: one.__name__)
def test_a_job_ends_within_a_step_of_being_cancelled(workshop: Workshop, made: Any) -> None:
    request = made(workshop)
    whole, pictures, was_cancelled = run(workshop, request)
    assert not was_cancelled and all(one.is_complete for one in pictures)
    # The first event of each kind, in the first drawing, and a step of the last drawing.
    kinds = [f"{one.stage} {getattr(one, 'step', 0)}" for one in whole]
    firsts = {kind: place for place, kind in reversed(list(enumerate(kinds)))}
    last_step = max(place for place, kind in enumerate(kinds) if kind == "denoise 1")
    for stop_at in sorted({*firsts.values(), last_step} - {len(whole) - 1}):
        events, _, was_cancelled = run(workshop, request, stop_at)
        assert was_cancelled, kinds[stop_at]
        later = events[stop_at + 1 :]
        assert sum(isinstance(one, StepDone) for one in later) <= 1, kinds[stop_at]
        stages = Counter(one.stage for one in later if isinstance(one, StageStarted))
        assert set(stages) <= ENDING, (kinds[stop_at], stages)


def test_what_scripts_had_made_is_kept(workshop: Workshop) -> None:
    """Cancelled in its last drawing, a loopback has all before it, an upscale one picture."""
    for made, kept in ((loopback, 2), (sd_upscale, 1)):
        request = made(workshop)
        whole, _, _ = run(workshop, request)
        steps = [place for place, one in enumerate(whole) if isinstance(one, StepDone)]
        _, pictures, was_cancelled = run(workshop, request, steps[-2])
        assert was_cancelled
        assert len(pictures) == kept
        assert not pictures[-1].is_complete
        assert all(one.is_complete for one in pictures[:-1])


def test_reading_a_controlnet_stops_between_parts_of_its_file(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was cancelled in the middle is read anew by the next job."""
    request = controlled(workshop)
    _, (whole,), _ = run(workshop, request)
    load = controlnet.load_component
    for stop_at in (1, 3):
        workshop.runner.unload()
        control, parts = RunControl(), list[int]()

        def counting(*args: Any, on_progress: Any, **kwargs: Any) -> Any:
            def heard(count: int) -> None:
                parts.append(count)  # noqa: B023
                if len(parts) == stop_at:  # noqa: B023
                    control.cancel()  # noqa: B023
                on_progress(count)

            return load(*args, on_progress=heard, **kwargs)

        monkeypatch.setattr(controlnet, "load_component", counting)
        with pytest.raises(Cancelled):
            list(workshop.runner.run(request, SETTINGS, lambda event: None, control))
        assert len(parts) == stop_at
    monkeypatch.setattr(controlnet, "load_component", load)
    _, (again,), _ = run(workshop, request)
    assert np.array_equal(again.pixels, whole.pixels)
