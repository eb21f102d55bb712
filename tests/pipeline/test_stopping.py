"""A cancelled job ends at the next step, tile, face or file part, in whatever stage it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdforge.core.errors import Cancelled
from sdforge.core.events import Event, StageStarted
from sdforge.core.result import ImageResult
from sdforge.engine.progress import ProgressMeter
from sdforge.memory.vae_mode import VaeMode
from sdforge.models.vae import Vae
from sdforge.pipeline.context import RunControl
from sdforge.pipeline.generate import generate
from tests.pipeline.conftest import Pipeline

SHIPPED = "R-ESRGAN AnimeVideo"
# Wide enough for two of the VAE's smallest tiles.
WIDE: dict[str, Any] = {"width": 320, "height": 64, "steps": 1, "sampler": "Euler"}
HIRES: dict[str, Any] = {
    **WIDE, "width": 256, "hires": True, "hires_scale": 1.5,
    "denoising_strength": 0.5, "hires_steps": 1,
}  # fmt: skip


class Counting(RunControl):
    """Counts how often a run looks whether it was cancelled, and says so at one of these looks."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.looks = at, 0
        super().__init__()

    @property
    def cancelled(self) -> bool:
        self.looks += 1
        return bool(self.at) and self.looks >= self.at

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        """Only the count decides."""


@dataclass
class Ran:
    """A run: its stages with the looks before each, and how it ended."""

    control: Counting
    stages: list[tuple[str, int]]
    results: list[ImageResult]
    was_cancelled: bool = False

    def window(self, stage: str) -> tuple[int, int]:
        """Return the looks before a stage and those within it, where it comes often the most."""
        ends = [looks for _, looks in self.stages[1:]] + [self.control.looks]
        found = [
            (end - before, before)
            for (name, before), end in zip(self.stages, ends, strict=True)
            if name == stage
        ]
        within, before = max(found)
        return before, within


def run(pipeline: Pipeline, settings: dict[str, Any], values: dict[str, Any], at: int = 0) -> Ran:
    ran = Ran(Counting(at), [], [])

    def on_event(event: Event) -> None:
        if isinstance(event, StageStarted):
            ran.stages.append((event.stage, ran.control.looks))
            # As if larger pieces had run out of memory.
            pipeline.parts.memory.pressure.vae_skip = 9

    pipeline.on_event = on_event
    context = replace(pipeline.context(settings, **values), control=ran.control)
    try:
        ran.results.extend(generate(context))
    except Cancelled:
        ran.was_cancelled = True
    return ran


def with_picture(pipeline: Pipeline) -> dict[str, Any]:
    across = np.linspace(0, 255, 320, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    picture = pipeline.put(Image.fromarray(np.ascontiguousarray(across)))
    return {**WIDE, "init_images": (picture,), "denoising_strength": 0.5}


@pytest.mark.parametrize(
    ("stage", "settings", "values"),
    [
        ("decode", {}, WIDE),
        ("input", {}, with_picture),
        ("upscale", {"ESRGAN_tile": 32}, HIRES | {"width": 64, "hires_upscaler": SHIPPED}),
        ("upscale", {}, HIRES | {"hires_upscaler": "Lanczos"}),
    ],
    ids=["decode", "encode", "model upscaler", "hires by picture"],
)
def test_a_job_ends_at_every_look_of_a_stage_in_tiles(
    pipeline: Pipeline, stage: str, settings: dict[str, Any], values: Any
) -> None:
    values = values(pipeline) if callable(values) else values
    pipeline.parts.provider.get("")
    whole = run(pipeline, settings, values)
    before, looks = whole.window(stage)
    # A look at every tile of every layer, or at every one of the upscaler.
    assert looks >= 3 and not whole.was_cancelled
    for at in (before + 1, before + looks // 2 + 1):
        stopped = run(pipeline, settings, values, at)
        assert stopped.was_cancelled, at
        if "hires" in values:
            # The first pass is what was reached: it is shown, as it was drawn.
            assert stopped.stages.pop()[0] == "decode"
            assert [one.is_complete for one in stopped.results] == [False]
        else:
            assert stopped.results == []
        assert stopped.stages[-1] == whole.stages[len(stopped.stages) - 1]
        assert stopped.stages[-1][0] == stage
        # Nothing was computed any more: one look may follow, to end the job by.
        assert stopped.control.looks <= at + 1
    if stage != "decode":
        return
    # What was stopped in the middle left nothing behind.
    again = run(pipeline, settings, values)
    assert np.array_equal(again.results[0].pixels, whole.results[0].pixels)


def test_pictures_of_a_batch_that_were_decoded_already_are_kept(pipeline: Pipeline) -> None:
    pipeline.parts.provider.get("")
    values = {**WIDE, "batch_size": 2}
    whole = run(pipeline, {}, values)
    before, looks = whole.window("decode")
    stopped = run(pipeline, {}, values, before + looks - 1)
    assert stopped.was_cancelled
    (kept,) = stopped.results
    assert kept.is_complete
    assert np.array_equal(kept.pixels, whole.results[0].pixels)


def test_what_a_cancelled_job_had_reached_is_decoded_in_tiles_all_the_same(
    pipeline: Pipeline,
) -> None:
    pipeline.parts.provider.get("")
    values = {**WIDE, "steps": 4}
    whole = run(pipeline, {}, values)
    before, looks = whole.window("denoise")
    assert looks == 4
    stopped = run(pipeline, {}, values, before + 2)
    assert stopped.was_cancelled
    assert [name for name, _ in stopped.stages[-2:]] == ["denoise", "decode"]
    (partial,) = stopped.results
    assert not partial.is_complete
    assert partial.pixels.shape == (64, 320, 3)


def vae_of(pipeline: Pipeline) -> Vae:
    vae = pipeline.parts.provider.get("").vae
    assert isinstance(vae, Vae)
    return vae


@pytest.mark.parametrize("blended", [True, False])
@pytest.mark.parametrize("way", ["decode", "encode"])
def test_the_vae_stops_after_the_tile_that_runs(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, way: str, blended: bool
) -> None:
    vae = vae_of(pipeline)
    if blended:
        # As where main memory has no room for what the layers make.
        monkeypatch.setattr(Vae, "_by_layers", lambda *args: None)
    shape = (1, 4, 8, 64) if way == "decode" else (1, 3, 64, 512)
    given = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Cancelled("enough")

    work = getattr(vae, way)
    with vae.stoppable(stop), pytest.raises(Cancelled):
        work(given, VaeMode.tiled(32))
    assert calls == 2
    # Outside the block nobody is asked.
    assert len(work(given, VaeMode.tiled(32))) == 1
    assert calls == 2


@pytest.mark.parametrize(
    ("kind", "batches"),
    [("txt2img", 2), ("hires", 2), ("hires by a model", 1), ("img2img", 1), ("all of it", 1)],
)
def test_progress_never_goes_back_and_ends_at_one(
    pipeline: Pipeline, kind: str, batches: int
) -> None:
    few = {"steps": 3, "sampler": "Heun", "batch_count": batches}
    values: dict[str, dict[str, Any]] = {
        "txt2img": few,
        "hires": HIRES | few | {"width": 64, "hires_steps": 2},
        "hires by a model": HIRES | few | {"width": 64, "hires_upscaler": SHIPPED},
        "img2img": with_picture(pipeline) | few | {"width": 64},
        "all of it": HIRES | few | {"width": 64, "refiner": "half", "refiner_switch_at": 0.5},
    }
    pipeline.on_event = lambda event: None
    pipeline.draw(**values[kind])
    meter = ProgressMeter(batches)
    fractions = [meter.update(event).fraction for event in pipeline.events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(set(fractions)) >= 3 * batches
