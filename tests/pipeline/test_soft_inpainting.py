"""Soft inpainting in a real run: on the way, and on the way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdforge.core.extension import active_extensions
from sdforge.core.settings import Settings
from sdforge.extensions.builtin.soft_inpainting import SoftInpainting
from sdforge.extensions.catalog import load_extensions
from sdforge.pipeline.generate import generate
from tests.pipeline.conftest import Pipeline

ON = {"soft_inpainting": {"enabled": True}}


def picture(width: int = 128, height: int = 64) -> Image.Image:
    values = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def ramp(width: int = 128, height: int = 64) -> Image.Image:
    """Black on the left two thirds, then rising to white."""
    levels = np.clip(np.linspace(-510, 255, width), 0, 255)
    return Image.fromarray(levels[None].repeat(height, 0).astype(np.uint8))


def draw(pipeline: Pipeline, asked: dict[str, Any], **values: Any) -> np.ndarray[Any, Any]:
    values = {
        "init_images": (pipeline.put(values.pop("start", picture())),), "steps": 3,
        "mask": pipeline.put(values.pop("marked", ramp())), "mask_blur_x": 0, "mask_blur_y": 0,
        "denoising_strength": 0.9, "width": 128, "mask_round": not asked, "sampler": "Euler",
    } | values  # fmt: skip
    context = pipeline.context(**values)
    context.extensions = active_extensions(load_extensions(), asked, Settings())
    (result,) = generate(context)
    return result.pixels


def test_the_request_keeps_its_grey_only_where_there_is_a_mask(pipeline: Pipeline) -> None:
    masked = pipeline.context(
        init_images=(pipeline.put(picture()),), mask=pipeline.put(ramp())
    ).request
    assert masked.mask_round
    assert not SoftInpainting().on_request(masked, {}).mask_round
    plain = pipeline.context().request
    assert SoftInpainting().on_request(plain, {}) is plain


def test_what_is_black_stays_and_what_is_white_is_redrawn(pipeline: Pipeline) -> None:
    made, source = draw(pipeline, ON), np.asarray(picture()).astype(int)
    changes = np.abs(made - source).mean(axis=(0, 2))
    # Changes show some latents further than they are, as they do in A1111.
    assert changes[:24].max() < 2
    assert changes[-16:].mean() > 10
    assert not np.array_equal(made, draw(pipeline, {}))


def test_a_threshold_that_nothing_reaches_shows_the_source(pipeline: Pipeline) -> None:
    asked = {"soft_inpainting": {"enabled": True, "threshold": 8.0, "contrast": 8.0}}
    made = draw(pipeline, asked, denoising_strength=0.3)
    assert np.abs(made - np.asarray(picture()).astype(int)).mean() < 1


@pytest.mark.parametrize("resize_mode", [0, 1, 2, 3])
@pytest.mark.parametrize("only_masked", [False, True])
def test_it_goes_with_every_way_to_bring_a_picture_in(
    pipeline: Pipeline, resize_mode: int, only_masked: bool
) -> None:
    made = draw(
        pipeline, ON, start=picture(180, 50), marked=ramp(180, 50), resize_mode=resize_mode,
        only_masked=only_masked, steps=1,
    )  # fmt: skip
    assert made.shape == ((50, 180, 3) if only_masked else (64, 128, 3))
    if only_masked:
        assert np.array_equal(made[:, :16], np.asarray(picture(180, 50))[:, :16])


def test_without_a_mask_it_changes_nothing(pipeline: Pipeline) -> None:
    values: dict[str, Any] = {"mask": None, "steps": 1}
    assert np.array_equal(draw(pipeline, ON, **values), draw(pipeline, {}, **values))
