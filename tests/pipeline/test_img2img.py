"""Pictures as a start: strength, sizes, masks, and what must stay as it was, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdforge.core.events import Notice, StepDone
from sdforge.core.extension import Active, DenoiseContext, Extension, NetworkEdit, Values
from sdforge.pipeline.generate import generate
from sdforge.pipeline.img2img import pixels_of
from sdforge.pipeline.masked_denoiser import MaskedDenoiser, blended
from tests.pipeline.conftest import Pipeline


def gradient(width: int = 64, height: int = 64) -> Image.Image:
    """A smooth picture in which every place has its own colour."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([across, down, (across + down) / 2], -1).astype(np.uint8))


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def draw(pipeline: Pipeline, picture: Image.Image, **values: Any) -> np.ndarray:
    mask = values.pop("mask", None)
    if mask is not None:
        values["mask"] = pipeline.put(mask)
    values = {"sampler": "Euler", "init_images": (pipeline.put(picture),)} | values
    return pipeline.draw(**values)[0].pixels


def mean_difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


def test_little_strength_stays_near_the_picture_and_more_goes_further(pipeline: Pipeline) -> None:
    picture = gradient()
    vae = pipeline.parts.provider.get("").vae
    there_and_back = vae.decode(vae.encode(pixels_of(picture, 8)))[0].permute(1, 2, 0).numpy()
    kept = (there_and_back * 255).astype(np.uint8)
    far = [
        mean_difference(kept, draw(pipeline, picture, denoising_strength=strength, steps=10))
        for strength in (0.0, 0.4, 1.0)
    ]
    assert far[0] < far[1] < far[2]
    assert far[0] < 0.5 * far[2]


def test_the_first_noise_is_that_of_txt2img(pipeline: Pipeline) -> None:
    """At full strength, from a picture of latents near 0, both draw nearly the same."""
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    drawn = draw(pipeline, grey, denoising_strength=1.0, seed=3)
    same, other = (pipeline.draw(seed=seed, sampler="Euler")[0].pixels for seed in (3, 4))
    assert mean_difference(drawn, same) < 0.5 * mean_difference(drawn, other)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(40, 24), (17, 93), (1, 1)])
def test_the_result_has_the_size_that_was_asked_for(
    pipeline: Pipeline, mode: int, size: tuple[int, int]
) -> None:
    result = draw(pipeline, gradient(*size), resize_mode=mode, steps=1, width=48, height=56)
    assert result.shape == (56, 48, 3)


def test_each_picture_of_a_batch_has_its_own_start_or_all_have_the_only_one(
    pipeline: Pipeline,
) -> None:
    first, second = pipeline.put(gradient()), pipeline.put(Image.new("RGB", (64, 64), "red"))
    values = {"sampler": "Euler", "denoising_strength": 0.3, "batch_size": 2}
    both = pipeline.draw(init_images=(first, second), **values)
    repeated = pipeline.draw(init_images=(first,), **values)
    assert mean_difference(both[0].pixels, repeated[0].pixels) < 1
    assert mean_difference(both[1].pixels, repeated[1].pixels) > 3
    fewer = pipeline.draw(init_images=(first, second), **(values | {"batch_size": 5}))
    assert len(fewer) == 2


def test_settings_of_noise_act(pipeline: Pipeline) -> None:
    picture = gradient()
    plain = draw(pipeline, picture, denoising_strength=0.5)
    for settings in (
        {"initial_noise_multiplier": 0.5},
        {"img2img_extra_noise": 0.5},
        {"vae_encode_sampling": True},
        {"img2img_color_correction": True},
    ):
        again = [
            draw(pipeline, picture, denoising_strength=0.5, settings=settings) for _ in range(2)
        ]
        assert not np.array_equal(plain, again[0])
        assert np.array_equal(*again)
    asked = draw(pipeline, picture, denoising_strength=0.5, initial_noise_multiplier=0.5)
    assert np.array_equal(
        asked,
        draw(
            pipeline,
            picture,
            denoising_strength=0.5,
            settings={"initial_noise_multiplier": 0.5},
        ),
    )


def test_transparent_parts_get_the_background_colour(pipeline: Pipeline) -> None:
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    on_red = draw(pipeline, clear, settings={"img2img_background_color": "#ff0000"})
    assert np.array_equal(on_red, draw(pipeline, red))


@pytest.mark.parametrize("content", [0, 1, 2, 3])
@pytest.mark.parametrize("only_masked", [False, True])
def test_outside_of_the_mask_every_bit_stays(
    pipeline: Pipeline, content: int, only_masked: bool
) -> None:
    picture = gradient()
    box = (16, 24, 40, 48)
    result = draw(
        pipeline, picture, mask=box_mask(picture.size, box), masked_content=content,
        only_masked=only_masked, only_masked_padding=4, mask_blur_x=0, mask_blur_y=0,
        denoising_strength=1.0,
    )  # fmt: skip
    source = np.asarray(picture)
    inside = np.zeros((64, 64), bool)
    inside[24:48, 16:40] = True
    assert np.array_equal(result[~inside], source[~inside])
    assert mean_difference(result[inside], source[inside]) > 3


def test_an_inverted_mask_keeps_what_is_white(pipeline: Pipeline) -> None:
    picture = gradient()
    result = draw(
        pipeline, picture, mask=box_mask(picture.size, (0, 0, 32, 64)), mask_invert=True,
        mask_blur_x=0, mask_blur_y=0, denoising_strength=1.0,
    )  # fmt: skip
    assert np.array_equal(result[:, :32], np.asarray(picture)[:, :32])
    assert not np.array_equal(result[:, 32:], np.asarray(picture)[:, 32:])


def test_only_masked_keeps_the_pictures_own_size_and_far_parts(pipeline: Pipeline) -> None:
    picture = gradient(150, 90)
    result = draw(
        pipeline, picture, mask=box_mask(picture.size, (60, 40, 80, 55)), only_masked=True,
        only_masked_padding=8, width=64, height=64,
    )  # fmt: skip
    assert result.shape == (90, 150, 3)
    assert np.array_equal(result[:, :40], np.asarray(picture)[:, :40])
    assert not np.array_equal(result, np.asarray(picture))


def test_an_empty_mask_is_plain_img2img_and_says_so(pipeline: Pipeline) -> None:
    picture = gradient()
    plain = draw(pipeline, picture)
    empty = draw(pipeline, picture, mask=Image.new("L", (64, 64)), only_masked=True)
    assert np.array_equal(plain, empty)
    assert any("mask" in event.text for event in pipeline.events if isinstance(event, Notice))


def test_a_full_mask_repaints_everything(pipeline: Pipeline) -> None:
    picture = gradient()
    full = draw(pipeline, picture, mask=Image.new("L", (64, 64), 255))
    assert np.array_equal(full, draw(pipeline, picture))


def test_progress_counts_the_steps_that_are_walked(pipeline: Pipeline) -> None:
    draw(pipeline, gradient(), steps=8, denoising_strength=0.5)
    steps = [(event.step, event.steps) for event in pipeline.events if isinstance(event, StepDone)]
    assert steps == [(step, 5) for step in range(1, 6)]


class Caught(Extension):
    """Keeps the latents that are about to be decoded."""

    name = "caught"
    label = "Caught"

    def __init__(self) -> None:
        self.latents = torch.empty(0)

    def on_latents(self, context: DenoiseContext, latents: Tensor, values: Values) -> Tensor:
        self.latents = latents
        return latents


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DDIM"])
def test_every_step_keeps_the_latents_outside_of_the_mask(pipeline: Pipeline, sampler: str) -> None:
    picture, caught = gradient(), Caught()
    context = pipeline.context(
        sampler=sampler, init_images=(pipeline.put(picture),), denoising_strength=1.0,
        mask=pipeline.put(box_mask(picture.size, (0, 0, 32, 64))), mask_blur_x=0, mask_blur_y=0,
    )  # fmt: skip
    context.extensions = (Active(caught, {}),)
    list(generate(context))
    start = pipeline.parts.provider.get("").vae.encode(pixels_of(picture, 8))
    inside, outside = (caught.latents - start).abs().mean((0, 1, 2)).split(4)
    # DDIM's last timestep leaves a little noise.
    assert outside.max() < (0.06 if sampler == "DDIM" else 1e-3)
    assert inside.mean() > 0.1


def test_the_guess_is_blended_by_the_mask_and_raw_guesses_are_not() -> None:
    inner = PlainGuess(torch.full((1, 4, 2, 2), 3.0))
    mask = torch.tensor([[[[1.0, 0.0], [0.5, 1.0]]]])
    masked = MaskedDenoiser(
        inner, lambda drawn, sigma: blended(drawn, torch.ones(1, 4, 2, 2), mask)
    )
    wanted = torch.tensor([[3.0, 1.0], [2.0, 3.0]]).expand(1, 4, 2, 2)
    x = torch.zeros(1, 4, 2, 2)
    assert torch.equal(masked(x, 1.0), wanted)
    assert all(torch.equal(guess, wanted) for guess in masked.with_uncond(x, 1.0))
    assert torch.equal(masked.guess(x, 1.0), inner.answer)


class PlainGuess:
    """A denoiser that always gives the same answer."""

    cfg_scale = 7.0

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.answer

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        return self.answer, self.answer

    def guesses(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor | None]:
        return self.answer, None

    def guess(
        self, x: Tensor, sigma: float, *, of: str = "cond", edit: NetworkEdit | None = None
    ) -> Tensor:
        return self.answer
