"""What inpainting and editing checkpoints see beside the noisy latents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sdforge.models.denoiser import Conditioning
from sdforge.pipeline.beside import Beside, inpainting_channels
from sdforge.pipeline.conditioning import BatchConditioning, TimedConditioning
from sdforge.pipeline.generate import generate
from sdforge.pipeline.img2img import pixels_of
from sdforge.pipeline.prompt_denoiser import PromptDenoiser
from sdforge.sampling.guidance import UncondSkips
from tests.pipeline.conftest import Pipeline
from tests.tiny import TINY, make_checkpoint, tiny_server_parts


def encode(pixels: Tensor) -> Tensor:
    """Stand in for a VAE: means of squares of eight pixels, and their sum as a fourth channel."""
    means = F.avg_pool2d(pixels, 8)
    return torch.cat([means, means.sum(1, keepdim=True)], dim=1)


def test_the_mask_comes_first_and_hides_the_picture() -> None:
    pixels = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 32, 48)
    mask[..., :16] = 0.9
    made = inpainting_channels(pixels, mask, encode)
    assert made.shape == (2, 5, 4, 6)
    assert made[:, 0, :, :2].min() == 1 and made[:, 0, :, 2:].max() == 0
    assert torch.equal(made[:, 1:, :, 2:], encode(pixels)[..., 2:])
    assert torch.allclose(made[:, 1:4, :, :2], torch.full((2, 3, 4, 2), 0.5))


def test_less_weight_hides_less_and_none_hides_nothing() -> None:
    pixels, mask = torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    none, half, all_of_it = (
        inpainting_channels(pixels, mask, encode, weight=weight)[:, 1:] for weight in (0, 0.5, 1)
    )
    assert torch.equal(none, encode(pixels))
    assert torch.allclose(half, (none + all_of_it) / 2, atol=1e-6)


# --- whole checkpoints of both kinds

INPAINTING, EDITING = replace(TINY, in_channels=9), replace(TINY, in_channels=8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("beside")
    files = [
        make_checkpoint(folder / "inpainting.safetensors", INPAINTING),
        make_checkpoint(folder / "editing.safetensors", EDITING),
        make_checkpoint(folder / "plain.safetensors"),
    ]
    parts = tiny_server_parts(folder / "data", *files)
    yield Pipeline(parts)
    parts.provider.unload()


def picture(seed: int = 1) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC)


def half() -> Image.Image:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    return mask


def draw(models: Pipeline, name: str, settings: dict[str, Any] | None = None, **values: Any) -> Any:
    title = models.parts.library.find(name).title
    values = {"steps": 2, "sampler": "Euler", "cfg_scale": 4.0} | values
    if "start" in values:
        values["init_images"] = (models.put(values.pop("start")),)
    if "mask" in values:
        values["mask"] = models.put(values["mask"])
    context = models.context(settings, **values)
    context.request = replace(context.request, checkpoint=title)
    (result,) = generate(context)
    return result


@contextmanager
def watched(models: Pipeline, name: str) -> Iterator[list[Tensor]]:
    """Collect what the network of a checkpoint is shown at each call."""
    title = models.parts.library.find(name).title
    module = models.parts.provider.get(title).denoiser.component.module
    shown: list[Tensor] = []
    hook = module.conv_in.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    try:
        yield shown
    finally:
        hook.remove()


def test_an_inpainting_network_sees_the_mask_and_the_rest_of_the_picture(models: Pipeline) -> None:
    with watched(models, "inpainting") as shown:
        made = draw(
            models, "inpainting", start=picture(), mask=half(), mask_blur_x=0, mask_blur_y=0
        )
    assert {tuple(one.shape[1:]) for one in shown} == {(9, 8, 8)}
    vae = models.parts.provider.get(models.parts.library.find("inpainting").title).vae
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    wanted = inpainting_channels(pixels_of(picture(), 8), mask, vae.encode)
    for one in shown:
        assert torch.allclose(one[:, 4:], wanted.expand(len(one), -1, -1, -1), atol=1e-5)
    assert made.info.extra["Conditional mask weight"] == "1.0"


def test_the_weight_of_the_mask_shows_the_network_what_is_below(models: Pipeline) -> None:
    values = {"start": picture(), "mask": half(), "denoising_strength": 0.5}
    hidden = draw(models, "inpainting", **values)
    seen = draw(models, "inpainting", {"inpainting_mask_weight": 0.0}, **values)
    assert not np.array_equal(hidden.pixels, seen.pixels)
    # Right of the mask every bit is the picture's, whatever the network sees.
    assert np.array_equal(hidden.pixels[:, 56:], np.asarray(picture())[:, 56:])


def test_without_a_picture_everything_is_masked_and_grey(models: Pipeline) -> None:
    for more in ({}, {"hires": True, "hires_scale": 1.25, "hires_steps": 1}):
        with watched(models, "inpainting") as shown:
            draw(models, "inpainting", **more)
        for one in shown:
            assert one[:, 4].min() == 1
    with watched(models, "inpainting") as shown:
        draw(models, "inpainting", start=picture())
    assert shown[0][:, 4].min() == 1


@pytest.mark.parametrize("batched", [True, False])
def test_an_editing_network_is_asked_with_and_without_the_picture(
    models: Pipeline, batched: bool
) -> None:
    settings = {"batch_cond_uncond": batched}
    with watched(models, "editing") as shown:
        draw(models, "editing", settings, start=picture(), image_cfg_scale=1.5, steps=1)
    rows = torch.cat(shown)
    assert rows.shape[1:] == (8, 8, 8)
    assert len(rows) == 3 * len(shown) // (1 if batched else 3)
    bundle = models.parts.provider.get(models.parts.library.find("editing").title)
    own = bundle.vae.encode(pixels_of(picture(), 8)) / bundle.latent_format.scale
    sees, sees_too, blind = rows[:3, 4:]
    assert torch.allclose(sees, own[0], atol=1e-4)
    assert torch.equal(sees, sees_too)
    assert blind.abs().max() == 0


def test_the_image_cfg_scale_acts_on_editing_models_only(models: Pipeline) -> None:
    values: dict[str, Any] = {"start": picture(), "denoising_strength": 0.9}
    for name, acts in (("editing", True), ("plain", False), ("inpainting", False)):
        one, other, none = (
            draw(models, name, image_cfg_scale=scale, **values) for scale in (1.5, 3.0, None)
        )
        assert np.array_equal(one.pixels, other.pixels) != acts
        assert ("Image CFG scale" in one.info.extra) == acts
        one_scale = draw(models, name, image_cfg_scale=1.0, **values)
        assert np.array_equal(one_scale.pixels, none.pixels)


def test_an_editing_model_draws_without_a_picture_and_in_a_second_pass(models: Pipeline) -> None:
    assert draw(models, "editing", image_cfg_scale=2.0).pixels.shape == (64, 64, 3)
    hires = draw(models, "editing", hires=True, hires_scale=1.25, image_cfg_scale=2.0)
    assert hires.pixels.shape == (80, 80, 3)


def test_a_refiner_may_see_more_than_the_base(models: Pipeline) -> None:
    title = models.parts.library.find("inpainting").title
    values: dict[str, Any] = {"start": picture(), "mask": half(), "steps": 4}
    plain = draw(models, "plain", **values)
    refined = draw(models, "plain", refiner=title, refiner_switch_at=0.5, **values)
    assert not np.array_equal(plain.pixels, refined.pixels)


def test_guidance_by_the_picture_is_the_papers() -> None:
    """U + s·(n − u) + c·(p − n), for guesses that say which row was asked for."""
    x = torch.zeros(1, 4, 2, 2)

    def forward(rows: Tensor, sigma: float, cond: Conditioning) -> Tensor:
        assert cond.beside is not None
        return cond.hidden[:, :1, :1, None] + 100 * cond.beside[:, :1] + rows

    def timed(value: float) -> TimedConditioning:
        return TimedConditioning((10,), (Conditioning(torch.full((1, 3, 4), value)),))

    denoiser = PromptDenoiser(
        forward,
        BatchConditioning(parts=[[timed(3.0)]], weights=[[1.0]], uncond=[timed(1.0)]),
        cfg_scale=5.0,
        skips=UncondSkips(calls=4, below_sigma=1e9, every_call=True),
        dtype=torch.float32,
        beside=Beside(torch.ones(1, 4, 2, 2), image_scale=2.0),
    )
    prompt, negative, blind = 103.0, 101.0, 1.0
    wanted = blind + 2.0 * (negative - blind) + 5.0 * (prompt - negative)
    assert denoiser(x, 1.0).flatten().tolist() == pytest.approx([wanted] * 16)
    guided, uncond = denoiser.with_uncond(x, 1.0)
    assert float(uncond.mean() + 5.0 * (denoiser.guesses(x, 1.0)[0] - uncond).mean()) == (
        pytest.approx(float(guided.mean()))
    )
