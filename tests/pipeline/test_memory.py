"""Whole jobs on simulated devices: every mode draws the same, and running out is survived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdforge.core.errors import OutOfMemory
from sdforge.core.events import Event, StepDone
from sdforge.core.extension import active_extensions
from sdforge.core.settings import Settings
from sdforge.extensions.catalog import load_extensions
from sdforge.memory.simulated import SimulatedDevice
from sdforge.pipeline.generate import generate
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


def test_a_shrunk_network_streams_to_the_same_picture(
    pipeline: Pipeline, make_pipeline: MakePipeline
) -> None:
    values = {"kohya_hrfix": {"enabled": True, "block_number": 1, "end": 1.0}}
    active = active_extensions(load_extensions(), values, Settings())
    plain = pipeline.draw(steps=1)[0].pixels
    here = pipeline.context(steps=1)
    placed = make_pipeline(SimulatedDevice(4 * GB), CAP).context(
        settings={"memory_mode": "lowvram"}, steps=1
    )
    here.extensions = placed.extensions = active
    expected, streamed = (list(generate(one))[0].pixels for one in (here, placed))
    assert np.array_equal(streamed, expected)
    assert not np.array_equal(expected, plain)


def test_parts_that_a_setting_names_stream_and_the_picture_stays(
    pipeline: Pipeline, make_pipeline: MakePipeline, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pipeline.draw(steps=1)[0].pixels
    device = SimulatedDevice(10**9)
    placed = make_pipeline(device, CAP)
    settings = {"offload_layers": ["down_blocks", "mid_block", "nothing_like_this"]}
    with caplog.at_level("INFO", logger="sdforge.memory"):
        assert np.array_equal(placed.draw(settings, steps=1)[0].pixels, expected)
    named = device.streamed_bytes
    assert 0 < named < placed.parts.provider.get("").components["denoiser"].total_bytes
    assert "mid_block never stays" in caplog.text
    assert "nothing_like_this is no part of this denoiser" in caplog.text
    # The next job has the setting's own value again: nothing streams.
    assert np.array_equal(placed.draw(steps=1)[0].pixels, expected)
    assert device.streamed_bytes == named


PICTURE = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)


def requests(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """One job of each kind, which between them pass through every stage."""
    picture = pipeline.put(Image.fromarray(PICTURE))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 40, 48))
    hires = {"hires": True, "hires_scale": 2.0, "denoising_strength": 0.7, "steps": 2}
    return {
        "txt2img": {"steps": 1, "sampler": "Euler a"},
        "img2img": {"init_images": (picture,), "denoising_strength": 0.5, "steps": 2},
        "inpaint": {
            "init_images": (picture,),
            "mask": pipeline.put(mask),
            "masked_content": 2,
            "steps": 2,
        },
        "hires": {**hires, "hires_upscaler": "Latent", "sampler": "DPM++ SDE"},
        "hires of the picture": {**hires, "hires_upscaler": "Lanczos"},
    }


FAULTS = {
    "txt2img": ((0.0, 1), (0.6, 3), (0.97, 2)),
    "img2img": (),
    "inpaint": ((0.02, 2), (0.5, 1)),
    "hires": (),
    "hires of the picture": ((0.4, 2), (0.7, 3)),
}
MORE_FAULTS = ((0.0, 2), (0.1, 1), (0.2, 3), (0.3, 2), (0.55, 1), (0.8, 2), (0.9, 3), (0.99, 1))


@pytest.mark.parametrize(
    ("kind", "faults"),
    [
        *((kind, faults) for kind, faults in FAULTS.items() if faults),
        *(pytest.param(kind, MORE_FAULTS, marks=pytest.mark.slow) for kind in FAULTS),
    ],
)
def test_running_out_at_any_stage_is_survived_without_changing_the_picture(
    pipeline: Pipeline,
    make_pipeline: MakePipeline,
    kind: str,
    faults: tuple[tuple[float, int], ...],
) -> None:
    expected = pipeline.draw(**requests(pipeline)[kind])[0].pixels
    device = SimulatedDevice(10**9)
    placed = make_pipeline(device, CAP)
    values = requests(placed)[kind]
    placed.draw(**values)
    placed.conditioning.clear()
    before = device.operations
    placed.draw(**values)
    count = device.operations - before  # without the uploads of the first
    noted = 0
    for part, times in faults:
        placed.conditioning.clear()
        for number in range(times):
            device.fail_at(1 + int(count * part) + 3 * number)
        result = placed.draw(**values)[0]
        assert np.array_equal(result.pixels, expected), (part, result.info.extra)
        # What one fault taught may make the next job shorter than the place of its own; and in a
        # copy ahead or a preview it costs nothing.
        happened = times - device.fail_never()
        is_noted = "Memory ladder" in result.info.extra
        assert happened or not is_noted, part
        noted += is_noted
    assert noted > len(faults) / 2
    again = placed.draw(**values)[0]
    assert np.array_equal(again.pixels, expected)
    assert not again.info.extra


@pytest.mark.parametrize("way", ["decode", "encode"])
@pytest.mark.parametrize("on_host", [False, True])
def test_a_vae_that_runs_out_goes_on_to_tiles_and_the_next_job_begins_whole(
    pipeline: Pipeline,
    make_pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    on_host: bool,
) -> None:
    own = pipeline if on_host else make_pipeline(SimulatedDevice(2 * 10**9), CAP)
    picture = own.put(Image.fromarray(PICTURE).resize((320, 64)))
    values = {
        "init_images": (picture,), "width": 320, "height": 64, "steps": 1,
        "denoising_strength": 0.0,
    }  # fmt: skip
    expected = own.draw(**values)[0].pixels
    network = own.parts.provider.get("").components["vae"].module
    compute = getattr(network, way)
    widths = []

    def limited(x: torch.Tensor, *args: object, **named: object) -> object:
        widths.append(x.shape[-1] * (8 if way == "decode" else 1))
        if widths[-1] > 256:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute(x, *args, **named)

    monkeypatch.setattr(network, way, limited)
    result = own.draw(**values)[0]
    stage = "VAE" if way == "decode" else "VAE encode"
    notes = result.info.extra["Memory ladder"].split("; ")
    assert set(notes) <= {f"{stage}: tidied", f"{stage}: evicted others",
                          f"{stage}: smaller VAE pieces"}  # fmt: skip
    assert notes[-1] == f"{stage}: smaller VAE pieces"
    # Layer by layer the network as a whole is not asked again, and the picture is the whole one.
    assert min(widths) == 320
    assert np.abs(result.pixels.astype(int) - expected).max() <= 1
    monkeypatch.undo()
    again = own.draw(**values)[0]
    assert np.array_equal(again.pixels, expected)
    assert not again.info.extra


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
    pipeline: Pipeline, make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipeline.draw(steps=2, width=128, height=128)[0].pixels
    device = SimulatedDevice(10**8)
    placed = make_pipeline(device, CAP)

    def shrink(event: Event) -> None:
        if isinstance(event, StepDone):
            device.total_bytes = 10**6

    def refuse(*args: object, **named: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    placed.on_event = shrink
    with pytest.raises(OutOfMemory, match=r"^denoiser: out of memory .*; 64 × 64 should fit$"):
        placed.draw(steps=2, width=128, height=128)
    placed.on_event = lambda event: None
    device.total_bytes = 10**8
    network = placed.parts.provider.get("").components["vae"].module
    monkeypatch.setattr(network, "decode", refuse)
    with pytest.raises(OutOfMemory, match=r"^VAE: out of memory .*; 64 × 64 should fit$"):
        placed.draw(steps=2, width=128, height=128)
    monkeypatch.undo()
    again = placed.draw(steps=2, width=128, height=128)[0]
    assert np.array_equal(again.pixels, expected)
    assert not again.info.extra
