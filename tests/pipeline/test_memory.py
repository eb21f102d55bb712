"""Whole jobs on simulated devices: every mode draws the same, and running out is survived."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sdforge.core.errors import OutOfMemory
from sdforge.core.events import Event, StepDone
from sdforge.memory.simulated import SimulatedDevice
from tests.pipeline.conftest import Pipeline

# Cuts the tiny checkpoint's U-Net into some hundred units.
CAP = 200_000
# The tiny U-Net takes 1/400 of SDXL's bytes in 16 bits; so do these cards.
GB = 10**9 // 400

MakePipeline = Callable[..., Pipeline]


@pytest.mark.parametrize(
    ("mode", "gigabytes"),
    [
        ("normal", 16),
        ("normal", 4),
        ("medvram", 8),
        ("lowvram", 4),
        ("always-no-vram", 3),
        ("always-gpu", 16),
    ],
)
def test_every_mode_draws_the_same_picture_on_the_card_it_is_for(
    pipeline: Pipeline, make_pipeline: MakePipeline, mode: str, gigabytes: int
) -> None:
    expected = pipeline.draw(steps=1)[0].pixels
    device = SimulatedDevice(gigabytes * GB)
    placed = make_pipeline(device, CAP)
    # With one batch, as on the host: another batching may change a last bit.
    result = placed.draw(settings={"memory_mode": mode}, steps=1)[0]

    if mode == "always-no-vram":  # cond and uncond apart
        assert np.abs(result.pixels.astype(int) - expected).max() <= 1
    else:
        assert np.array_equal(result.pixels, expected)
    assert device.peak_bytes <= gigabytes * GB
    assert not result.info.extra
    placed.parts.provider.unload()
    assert device.own_bytes() == 0


def test_running_out_at_any_stage_is_survived_without_changing_the_picture(
    pipeline: Pipeline, make_pipeline: MakePipeline
) -> None:
    expected = pipeline.draw(steps=1)[0].pixels
    device = SimulatedDevice(10**9)
    placed = make_pipeline(device, CAP)
    placed.draw(steps=1)
    placed.conditioning.clear()
    before = device.operations
    placed.draw(steps=1)
    count = device.operations - before
    for part, faults in ((0.03, 1), (0.3, 3), (0.6, 1), (0.97, 2)):
        placed.conditioning.clear()
        for number in range(faults):
            device.fail_at(int(count * part) + 3 * number)
        try:
            assert np.array_equal(placed.draw(steps=1)[0].pixels, expected)
        except OutOfMemory as error:
            # The sampler's own arithmetic is not repeated: a clear error, and the next job works.
            assert "denoiser" in str(error)
        device.fail_never()
    assert np.array_equal(placed.draw(steps=1)[0].pixels, expected)


def test_a_step_that_ran_out_is_repeated_and_the_infotext_says_so(
    pipeline: Pipeline, make_pipeline: MakePipeline
) -> None:
    expected = pipeline.draw(steps=2)[0].pixels
    device = SimulatedDevice(10**9)
    placed = make_pipeline(device, CAP)
    predict = placed.parts.provider.get("").denoiser.predict
    calls = []

    def failing_predict(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        if 2 <= len(calls) <= 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return predict(*args, **kwargs)  # type: ignore[arg-type]

    placed.parts.provider.get("").denoiser.predict = failing_predict  # type: ignore[method-assign]
    result = placed.draw(steps=2)[0]
    assert np.array_equal(result.pixels, expected)
    assert result.info.extra["Memory ladder"] == (
        "denoiser: tidied; denoiser: evicted others; denoiser: half resident; denoiser: streamed"
    )
    assert len(calls) == 2 + 4


def test_when_nothing_helps_the_error_names_a_size_and_the_next_job_works(
    pipeline: Pipeline, make_pipeline: MakePipeline
) -> None:
    expected = pipeline.draw(steps=2, width=128, height=128)[0].pixels
    device = SimulatedDevice(10**8)
    placed = make_pipeline(device, CAP)

    def shrink(event: Event) -> None:
        if isinstance(event, StepDone):
            device.total_bytes = 1

    placed.on_event = shrink
    with pytest.raises(OutOfMemory, match="denoiser: out of memory"):
        placed.draw(steps=2, width=128, height=128)
    placed.on_event = lambda event: None
    device.total_bytes = 10**8
    again = placed.draw(steps=2, width=128, height=128)[0]
    assert np.array_equal(again.pixels, expected)
    assert not again.info.extra
