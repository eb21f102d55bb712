"""Noise found in a picture, through the whole pipeline on the tiny checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from scripts.tiny_models.catalogue import write
from sdforge.core.errors import Cancelled
from sdforge.core.events import StageStarted, StepDone
from sdforge.core.extension import Active, complete_values
from sdforge.core.result import ImageResult
from sdforge.engine.progress import ProgressMeter
from sdforge.extensions.builtin.img2img_alternative import Img2imgAlternative
from sdforge.memory.simulated import SimulatedDevice
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.first_pass import FirstPasses
from sdforge.pipeline.generate import generate
from sdforge.pipeline.prompt_denoiser import PromptDenoiser
from tests.pipeline.conftest import Pipeline
from tests.tiny import tiny_server_parts

UP, DOWN = 4, 2


def context(
    pipeline: Pipeline,
    asked: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **values: Any,
) -> RunContext:
    """Return a run of the script: `UP` steps up and `DOWN` down, from a smooth picture."""
    across = np.linspace(40, 200, 64, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    picture = pipeline.put(Image.fromarray(np.ascontiguousarray(across)))
    values = {
        "init_images": (picture,), "denoising_strength": 1.0, "sampler": "Euler", "steps": DOWN,
        "cfg_scale": 1.0,
    } | values  # fmt: skip
    given = complete_values(
        Img2imgAlternative(),
        {"decode_steps": UP, "override_prompt": False, "original_prompt": "a cat"} | (asked or {}),
    )
    active = (Active(Img2imgAlternative(), given),)
    return replace(pipeline.context(settings, **values), extensions=active)


def drawn(pipeline: Pipeline, asked: dict[str, Any] | None = None, **values: Any) -> np.ndarray:
    return list(generate(context(pipeline, asked, **values)))[0].pixels


def steps_of(pipeline: Pipeline) -> list[tuple[int, int]]:
    return [(one.step, one.steps) for one in pipeline.events if isinstance(one, StepDone)]


def test_progress_counts_both_ways(pipeline: Pipeline) -> None:
    list(generate(context(pipeline, batch_count=2)))
    once = [(step, UP + DOWN) for step in range(1, UP + DOWN + 1)]
    assert steps_of(pipeline) == once * 2
    meter = ProgressMeter(2)
    fractions = [meter.update(event).fraction for event in pipeline.events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("stop_at", [2, UP, UP + 1])
@pytest.mark.parametrize("way", ["cancel", "skip"])
def test_a_job_stops_at_the_next_step_on_either_way(
    pipeline: Pipeline, stop_at: int, way: str
) -> None:
    run = context(pipeline)

    def on_event(event: object) -> None:
        if isinstance(event, StepDone) and event.step == stop_at:
            getattr(run.control, way)()

    pipeline.on_event = on_event
    made: list[ImageResult] = []
    if way == "cancel":
        with pytest.raises(Cancelled):
            made.extend(generate(run))
            pytest.fail("the job was not stopped")
    else:
        made.extend(generate(run))
        assert [one.is_complete for one in made] == [False]
    assert steps_of(pipeline)[-1] == (stop_at, UP + DOWN)


def test_what_was_found_serves_later_batches_and_jobs_that_ask_for_the_same(
    pipeline: Pipeline,
) -> None:
    kept = FirstPasses()

    def run(asked: dict[str, Any] | None = None, **values: Any) -> tuple[np.ndarray, int]:
        made = list(generate(replace(context(pipeline, asked, **values), first_passes=kept)))
        reused = [one for one in pipeline.events if isinstance(one, StageStarted)]
        return made[-1].pixels, sum(one.stage == "reuse" for one in reused)

    first, reused = run(batch_count=2)
    assert reused == 1
    assert run(batch_count=2)[1] == 2
    # On the way down everything may differ.
    assert run(prompt="a dog", steps=4)[1] == 1
    for asked in (
        {"original_prompt": "fog"},
        {"decode_steps": 3},
        {"sigma_adjustment": True},
        {"decode_cfg_scale": 3.0},
    ):
        assert run(asked)[1] == 0
    assert np.array_equal(run(batch_count=2)[0], first)


def test_every_control_changes_the_picture_as_it_says(pipeline: Pipeline) -> None:
    plain = drawn(pipeline)
    for asked in (
        {"original_prompt": "a red fog"},
        {"decode_steps": UP + 2},
        {"sigma_adjustment": True},
        {"decode_cfg_scale": 3.0, "original_negative_prompt": "fog"},
    ):
        assert not np.array_equal(plain, drawn(pipeline, asked)), asked
    # The seed counts as far as its noise is let in.
    for randomness, is_same in ((0.0, True), (0.5, False)):
        made = drawn(pipeline, {"randomness": randomness}, seed=2)
        assert np.array_equal(made, plain) is is_same


def test_outside_of_a_mask_every_bit_stays(pipeline: Pipeline) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    values = {"mask": pipeline.put(mask), "mask_blur_x": 0, "mask_blur_y": 0, "prompt": "a dog"}
    run = context(pipeline, **values)
    source = np.asarray(Image.open(BytesIO(pipeline.read(run.request.init_images[0]))))
    (made,) = generate(run)
    assert np.array_equal(made.pixels[:, 32:], source[:, 32:])
    assert not np.array_equal(made.pixels[:, :32], source[:, :32])


def test_it_is_the_same_picture_in_a_batch_as_alone(pipeline: Pipeline) -> None:
    alone = drawn(pipeline)
    both = list(generate(context(pipeline, batch_size=2)))
    for one in both:
        assert np.abs(one.pixels.astype(int) - alone).max() <= 1


def test_prompts_that_change_go_back_on_the_way_up(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, float]] = []
    ask = PromptDenoiser.__call__

    def spy(self: PromptDenoiser, x: Tensor, sigma: float) -> Tensor:
        asked.append((self.call, sigma))
        return ask(self, x, sigma)

    monkeypatch.setattr(PromptDenoiser, "__call__", spy)
    edited = drawn(pipeline, {"original_prompt": "[fog:a cat:2]"})
    assert [call for call, _ in asked] == [*range(UP - 1, -1, -1), *range(DOWN)]
    up = [sigma for _, sigma in asked[:UP]]
    assert up == sorted(up)
    assert not np.array_equal(edited, drawn(pipeline))


def test_streamed_weights_find_the_same_noise(
    pipeline: Pipeline, make_pipeline: Callable[..., Pipeline]
) -> None:
    # The tiny U-Net takes 1/400 of SDXL's bytes in 16 bits; so does this card of 4 GB.
    card = SimulatedDevice(4 * 10**9 // 400)
    placed = make_pipeline(card, 200_000)
    short: dict[str, Any] = {"asked": {"decode_steps": 2}, "steps": 1}
    made = drawn(placed, settings={"memory_mode": "lowvram"}, **short)
    assert np.array_equal(made, drawn(pipeline, **short))
    assert card.peak_bytes <= 4 * 10**9 // 400
    placed.parts.provider.unload()
    assert card.own_bytes() == 0


def test_a_flow_model_comes_back_to_the_picture(tmp_path: Path) -> None:
    file = write("Stable-diffusion/sd35.safetensors", tmp_path / "files")
    parts = tiny_server_parts(tmp_path / "data", file)
    pipeline = Pipeline(parts)
    run = context(pipeline)
    source = {"init_images": run.request.init_images, "sampler": "Euler", "cfg_scale": 1.0}
    kept, lost = (
        pipeline.draw(**source, denoising_strength=strength, steps=4)[0].pixels.astype(int)
        for strength in (0.0, 1.0)
    )
    for adjusted in (False, True):
        asked = {"decode_steps": 20, "sigma_adjustment": adjusted}
        again = drawn(pipeline, asked, steps=20)
        assert np.abs(again - kept).mean() < 0.5 * np.abs(lost - kept).mean()
    parts.provider.unload()
