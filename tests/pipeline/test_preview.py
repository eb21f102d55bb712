"""Live previews: how they are made, how often, and what they give way to; TAESD for pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from sdforge.core.errors import OutOfMemory
from sdforge.core.events import Notice, PreviewReady
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings
from sdforge.output.infotext import write_infotext
from sdforge.pipeline import preview
from tests.pipeline.conftest import Pipeline
from tests.tiny import tiny_server_parts

ASKED: dict[str, Any] = {
    "prompt": "red apple, blue background", "steps": 4, "width": 128, "height": 128, "seed": 3,
}  # fmt: skip
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def drawn_by_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """The model that ships, for which there is a small decoder."""
    parts = tiny_server_parts(tmp_path_factory.mktemp("demo"))
    pipeline = Pipeline(parts)
    yield pipeline
    pipeline.decoders.unload()
    parts.provider.unload()


@pytest.fixture(autouse=True)
def each_step_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(preview, "_PAUSES", 0)


def shown(pipeline: Pipeline, **settings: Any) -> tuple[ImageResult, list[Pixels]]:
    """Draw one picture; return it and its previews."""
    count = settings.pop("batch_size", 1)
    wanted = {"live_previews_image_format": "png"} | settings
    pipeline.parts.memory.configure(Settings().with_overrides(wanted))
    result = pipeline.draw(settings=wanted, **ASKED, batch_size=count)[0]
    events = [event for event in pipeline.events if isinstance(event, PreviewReady)]
    return result, [np.asarray(Image.open(io.BytesIO(event.image))) for event in events]


def decibels(one: Pixels, other: Pixels) -> float:
    side = other.shape[1], other.shape[0]
    same = np.asarray(Image.fromarray(one).resize(side, Image.Resampling.NEAREST))
    error = np.mean((same.astype(float) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def test_better_ways_to_preview_come_closer_to_the_picture(drawn_by_demo: Pipeline) -> None:
    linear, coarse = shown(drawn_by_demo, show_progress_type="Approx NN")
    by_taesd, small = shown(drawn_by_demo, show_progress_type="TAESD")
    by_vae, full = shown(drawn_by_demo, show_progress_type="Full")
    assert np.array_equal(linear.pixels, by_taesd.pixels)
    assert np.array_equal(linear.pixels, by_vae.pixels)
    assert [len(coarse), len(small), len(full)] == [4, 4, 4]
    assert coarse[-1].shape == (16, 16, 3)
    assert small[-1].shape == full[-1].shape == (128, 128, 3)
    # The clean guess of the last step is what the picture is decoded from.
    assert np.array_equal(full[-1], by_vae.pixels)
    assert decibels(small[-1], by_vae.pixels) > decibels(coarse[-1], by_vae.pixels) + 3


@pytest.mark.parametrize("mode", [pytest.param("medvram", marks=pytest.mark.slow), "lowvram"])
def test_the_vae_makes_previews_in_lean_modes_only_on_request(
    drawn_by_demo: Pipeline, mode: str
) -> None:
    by_taesd = shown(drawn_by_demo, show_progress_type="TAESD", memory_mode=mode)[1][-1]
    refused = shown(drawn_by_demo, show_progress_type="Full", memory_mode=mode)[1][-1]
    asked = {"show_progress_type": "Full", "live_preview_allow_lowvram_full": True}
    result, allowed = shown(drawn_by_demo, memory_mode=mode, **asked)
    assert np.array_equal(refused, by_taesd)
    assert np.array_equal(allowed[-1], result.pixels)


def test_a_batch_is_shown_whole_or_by_its_first_picture(drawn_by_demo: Pipeline) -> None:
    _, whole = shown(drawn_by_demo, batch_size=2)
    _, first = shown(drawn_by_demo, batch_size=2, show_progress_grid=False)
    assert whole[-1].shape == (16, 32, 3)
    assert first[-1].shape == (16, 16, 3)


def test_without_a_decoder_that_fits_previews_are_linear(pipeline: Pipeline) -> None:
    _, found = shown(pipeline, show_progress_type="TAESD")
    assert found[-1].shape == (16, 16, 3)


@pytest.mark.parametrize(
    "error", [OutOfMemory("no room"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_a_decoder_that_does_not_fit_gives_way(
    drawn_by_demo: Pipeline, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    plain, _ = shown(drawn_by_demo)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(drawn_by_demo.decoders, "decode", fail)
    result, found = shown(drawn_by_demo, show_progress_type="TAESD")
    assert np.array_equal(result.pixels, plain.pixels)
    assert [picture.shape for picture in found] == [(16, 16, 3)] * 4


def test_a_costly_preview_waits_longer_for_the_next(
    drawn_by_demo: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A pause of a million times its cost ends after the job.
    monkeypatch.setattr(preview, "_PAUSES", 1e6)
    assert len(shown(drawn_by_demo, show_progress_type="TAESD")[1]) == 1
    assert len(shown(drawn_by_demo, show_progress_type="Full")[1]) == 4


def test_pictures_by_the_small_decoder(drawn_by_demo: Pipeline, pipeline: Pipeline) -> None:
    by_vae, _ = shown(drawn_by_demo)
    small, _ = shown(drawn_by_demo, sd_vae_decode_method="TAESD")
    assert not np.array_equal(small.pixels, by_vae.pixels)
    assert decibels(small.pixels, by_vae.pixels) > 20
    settings = Settings().with_overrides({"sd_vae_decode_method": "TAESD"})
    assert "VAE Decoder: TAESD" in write_infotext(small.info, settings)
    # No decoder goes with this one.
    usual, _ = shown(pipeline)
    same, _ = shown(pipeline, sd_vae_decode_method="TAESD")
    assert np.array_equal(usual.pixels, same.pixels)
    told = [event.text for event in pipeline.events if isinstance(event, Notice)]
    assert len(told) == 1 and "no small decoder" in told[0]
