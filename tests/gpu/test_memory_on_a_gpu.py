"""What the simulated accelerator shows, on a real one: streams, locked blocks, the allocator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sdforge.memory.device import Device
from sdforge.memory.manager import MemoryManager
from sdforge.memory.placement import Placement
from tests.pipeline.conftest import Pipeline
from tests.tiny import make_checkpoint, tiny_server_parts

pytestmark = pytest.mark.gpu

# Cuts the tiny checkpoint's U-Net into some hundred units.
CAP = 200_000

MakePipeline = Callable[[], Pipeline]


@pytest.fixture
def make_pipeline(tmp_path: Path, accelerator: Device) -> MakePipeline:
    checkpoint = make_checkpoint(tmp_path / "half.safetensors", dtype="F16")
    numbers = iter(range(100))

    def make() -> Pipeline:
        folder = tmp_path / f"run{next(numbers)}"
        return Pipeline(
            tiny_server_parts(folder, checkpoint, device=accelerator, unit_cap_bytes=CAP)
        )

    return make


def reserved(device: Device) -> int:
    """Return what the driver and other programs hold before anything of ours does."""
    return device.reserve_bytes + device.foreign_bytes()


def test_modes_draw_the_same_bits_and_give_everything_back(
    make_pipeline: MakePipeline, accelerator: Device
) -> None:
    before = accelerator.own_bytes()
    pictures = []
    for mode in ("normal", "medvram", "lowvram"):
        pipeline = make_pipeline()
        pictures.append(pipeline.draw({"memory_mode": mode}, steps=3)[0].pixels)
        plan = pipeline.parts.memory.last_plan
        assert plan is not None and plan.mode.value == mode
        pipeline.parts.provider.unload()
        del pipeline
    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])
    assert accelerator.own_bytes() <= before + 2**20


def test_streaming_from_page_locked_blocks_gives_what_lies_there_gives(
    make_pipeline: MakePipeline, accelerator: Device
) -> None:
    pipeline = make_pipeline()
    bundle = pipeline.parts.provider.get("")
    memory, component = pipeline.parts.memory, bundle.components["denoiser"]
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    context = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(1))

    def run(room: int) -> torch.Tensor:
        memory.inference_bytes = accelerator.total_bytes - room
        memory.evict_all()
        with memory.lease(component) as module, torch.inference_mode():
            for _ in range(3):
                made = module(
                    x.to(accelerator.compute_device),
                    torch.tensor([500.0], device=accelerator.compute_device),
                    encoder_hidden_states=context.to(accelerator.compute_device),
                    return_dict=False,
                )[0]
            return made.cpu()

    whole = run(component.total_bytes * 2)
    for share in (0.6, 0.3):
        part = run(int(component.total_bytes * share))
        assert memory.last_plan is not None
        assert memory.last_plan.placement is Placement.PARTIAL
        assert torch.equal(part, whole)
    assert memory.report().pinned_bytes > 0


def test_a_job_stays_below_its_cap_and_learns_how_much_it_took(
    make_pipeline: MakePipeline, accelerator: Device
) -> None:
    pipeline = make_pipeline()
    pipeline.draw(steps=2, width=256, height=256)
    memory = pipeline.parts.memory
    accelerator.reset_peak()
    weights = sum(part.total_bytes for part in pipeline.parts.provider.get("").components.values())
    memory_total = accelerator.total_bytes
    accelerator.total_bytes = reserved(accelerator) + weights + 600 * 2**20
    try:
        pipeline.draw(steps=2, width=256, height=256)
        assert accelerator.peak_own_bytes() <= accelerator.total_bytes
        assert memory.report().activation_bytes > 0
    finally:
        accelerator.total_bytes = memory_total


def test_running_out_for_real_is_survived(
    make_pipeline: MakePipeline, accelerator: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline()
    expected = pipeline.draw(steps=2)[0].pixels
    denoiser = pipeline.parts.provider.get("").denoiser
    predict, calls = denoiser.predict, []

    def greedy(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            # More than any card has: the allocator's own error, with tensors alive around it.
            accelerator.allocate(2**44)
        return predict(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(denoiser, "predict", greedy)
    result = pipeline.draw(steps=2)[0]
    assert np.array_equal(result.pixels, expected)
    assert result.info.extra["Memory ladder"].startswith("denoiser: ")


def test_what_the_manager_counts_is_what_the_driver_counts(
    make_pipeline: MakePipeline, accelerator: Device
) -> None:
    before = accelerator.own_bytes()
    pipeline = make_pipeline()
    memory: MemoryManager = pipeline.parts.memory
    pipeline.draw(steps=1)
    held = memory.report().held_weights_bytes
    assert held > 0
    # The allocator rounds each tensor up to 512 bytes; conditioning and latents come on top.
    tensors = sum(len(part.masters) for part in pipeline.parts.provider.get("").components.values())
    assert held <= accelerator.own_bytes() - before <= held + 512 * tensors + 4 * 2**20
    memory.evict_all()
    assert memory.report().held_weights_bytes == 0
