"""First passes are drawn once for all second passes that go on from them, and equal to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sdforge.core.events import StageStarted, StepDone
from sdforge.pipeline.first_pass import FirstPasses
from sdforge.pipeline.generate import generate
from tests.pipeline.conftest import Pipeline

HIRES: dict[str, Any] = {
    "hires": True, "hires_scale": 1.5, "denoising_strength": 0.5, "sampler": "Euler a",
    "steps": 2, "hires_steps": 1,
}  # fmt: skip
FIRST, SECOND = [1, 2], [3]


def draw(
    pipeline: Pipeline, kept: FirstPasses | None, settings: dict[str, Any] | None = None, **own: Any
) -> list[np.ndarray]:
    context = pipeline.context(settings, **(HIRES | own))
    context.first_passes = kept
    return [result.pixels for result in generate(context)]


def steps(pipeline: Pipeline) -> list[int]:
    return [event.step for event in pipeline.events if isinstance(event, StepDone)]


def equal(ones: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize(
    "own",
    [
        {"batch_size": 2, "batch_count": 2, "denoising_strength": 0.8},
        {"hires_upscaler": "Lanczos", "hires_sampler": "Euler", "hires_width": 80},
        {"settings": {"img2img_extra_noise": 0.3}, "hires_prompt": "a dog", "hires_cfg_scale": 2.0},
    ],
    ids=lambda own: next(iter(own)),
)
def test_a_second_pass_goes_on_from_the_first_that_was_drawn(
    pipeline: Pipeline, own: dict[str, Any]
) -> None:
    kept = FirstPasses()
    batches = own.get("batch_count", 1)
    draw(pipeline, kept, batch_size=own.get("batch_size", 1), batch_count=batches)
    assert steps(pipeline) == (FIRST + SECOND) * batches
    again = draw(pipeline, kept, **own)
    assert steps(pipeline) == SECOND * batches
    stages = [event.stage for event in pipeline.events if isinstance(event, StageStarted)]
    assert stages.count("reuse") == stages.count("denoise") == batches
    alone = draw(pipeline, None, **own)
    assert steps(pipeline) == (FIRST + SECOND) * batches
    assert equal(again, alone)


def test_what_acts_in_the_first_pass_draws_it_anew(pipeline: Pipeline) -> None:
    refiner = pipeline.parts.library.find("").title
    kept = FirstPasses()
    draw(pipeline, kept)
    others: list[dict[str, Any]] = [
        {"seed": 2},
        {"prompt": "a dog"},
        {"width": 80},
        {"settings": {"CLIP_stop_at_last_layers": 2}},
        {"extensions": {"FreeU Integrated": {"freeu_enabled": True}}},
        {
            "refiner": refiner,
            "refiner_switch_at": 0.5,
            "settings": {"hires_fix_refiner_pass": "both passes"},
        },
    ]
    for own in others:
        draw(pipeline, kept, **own)
        stages = [event.stage for event in pipeline.events if isinstance(event, StageStarted)]
        assert "reuse" not in stages, own


def test_a_plain_picture_is_the_first_pass_of_hires_fix_but_is_itself_always_drawn(
    pipeline: Pipeline,
) -> None:
    kept = FirstPasses()
    draw(pipeline, kept, hires=False)
    draw(pipeline, kept, hires=False)
    assert steps(pipeline) == FIRST
    again = draw(pipeline, kept)
    assert steps(pipeline) == SECOND
    assert equal(again, draw(pipeline, None))


def test_the_last_ones_are_kept_within_a_limit_and_can_be_forgotten() -> None:
    kept = FirstPasses(max_bytes=3 * 400)
    for name in "abc":
        kept.put(name, torch.zeros(100))
    assert kept.get("a") is not None
    kept.put("d", torch.zeros(100))
    assert [kept.get(name) is not None for name in "abcd"] == [True, False, True, True]
    kept.put("large", torch.zeros(10_000))
    assert kept.get("large") is None
    kept.put("a", torch.zeros(1))
    kept.clear()
    assert kept.get("a") is None
