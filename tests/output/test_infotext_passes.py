"""Second passes, refiner and masks in infotext: A1111's keys, and the way back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo, ModelIdentity
from sdforge.core.settings import Settings
from sdforge.output.infotext import parse_infotext, request_from_infotext, write_infotext

PICTURE = InputImage("0" * 64, 64, 64)
BASE = GenerationRequest(
    prompt="a cat", negative_prompt="dog", steps=20, sampler="Euler", schedule="Karras",
    width=512, height=640, seed=1, cfg_scale=7.0, checkpoint="v1-5.safetensors",
)  # fmt: skip


def written(settings: dict[str, Any] | None = None, **values: Any) -> str:
    request = replace(BASE, **values)
    info = GenerationInfo(
        request=request, index=0, seed=1, subseed=2, prompt="a cat", negative_prompt="dog",
        model=ModelIdentity(name="v1-5", sha256="6ce0161689" + "0" * 54), version="0.1",
        others={"r.safetensors": ModelIdentity(name="r", sha256="ab" * 32)},
    )  # fmt: skip
    return write_infotext(info, Settings().with_overrides(settings or {}))


HIRES: dict[str, Any] = {
    "hires": True, "denoising_strength": 0.6, "hires_upscaler": "Latent (bicubic)",
}  # fmt: skip


def test_hires_keys_stand_in_a1111s_order() -> None:
    text = written(
        **HIRES, hires_sampler="LMS", hires_schedule="Normal", hires_prompt="a, lion",
        hires_steps=9, hires_cfg_scale=5.0, hires_checkpoint="r.safetensors",
    )  # fmt: skip
    assert (
        "Denoising strength: 0.6, Hires upscale: 2.0, Hires checkpoint: r [ababababab], "
        'Hires sampler: LMS, Hires schedule type: Normal, Hires prompt: "a, lion", '
        "Hires CFG Scale: 5.0, Hires steps: 9, Hires upscaler: Latent (bicubic), Version"
    ) in text


def test_what_is_the_same_as_in_the_first_pass_is_not_written() -> None:
    text = written(**HIRES, hires_sampler="Euler", hires_schedule="Karras", hires_prompt="a cat")
    assert "Hires upscale: 2.0, Hires upscaler: Latent (bicubic), Version" in text
    assert "Hires resize: 0x768, Hires upscaler" in written(**HIRES, hires_height=768)


@pytest.mark.parametrize(
    "values",
    [
        HIRES,
        HIRES | {"hires_width": 768, "hires_height": 1024},
        HIRES | {"hires_scale": 1.5, "hires_sampler": "LMS", "hires_schedule": "Normal",
                 "hires_steps": 5, "hires_prompt": "x: y", "hires_negative_prompt": "z"},
        HIRES | {"hires_cfg_scale": 3.0, "tiling": True},
        {"refiner": "v2", "refiner_switch_at": 0.8},
        {"tiling": True},
    ],
)  # fmt: skip
def test_the_way_back_gives_the_same_request(values: dict[str, Any]) -> None:
    again = request_from_infotext(parse_infotext(written(**values)))
    wanted = replace(BASE, **values, checkpoint="v1-5")
    assert replace(again, overrides={}, subseed=wanted.subseed) == wanted


def test_masks_are_told_where_there_is_one() -> None:
    values: dict[str, Any] = {
        "init_images": (PICTURE,), "mask": PICTURE, "denoising_strength": 0.75,
        "mask_blur_x": 8, "mask_blur_y": 8, "only_masked": True, "only_masked_padding": 16,
        "masked_content": 2, "mask_invert": True, "mask_round": False,
    }  # fmt: skip
    text = written(**values)
    assert (
        "Mask mode: Inpaint not masked, Mask blur: 8, Inpaint area: Only masked, "
        "Masked area padding: 16, Masked content: latent noise, Mask rounding: False"
    ) in text
    again = request_from_infotext(parse_infotext(text))
    for name, value in values.items():
        if name not in ("init_images", "mask"):
            assert getattr(again, name) == value, name
    assert "Mask" not in written(**(values | {"mask": None}))
    uneven = request_from_infotext(parse_infotext(written(**(values | {"mask_blur_y": 3}))))
    assert (uneven.mask_blur_x, uneven.mask_blur_y) == (8, 3)


def test_the_refiner_is_named_with_its_hash_and_rule() -> None:
    text = written(refiner="r.safetensors", refiner_switch_at=0.8)
    assert (
        "Refiner: r [ababababab], Refiner switch at: 0.8, Refiner switch by sampling steps: True"
    ) in text
    by_timestep = written({"refiner_switch_by_sample_steps": False}, refiner="r.safetensors")
    again = request_from_infotext(parse_infotext(by_timestep))
    assert again.overrides["refiner_switch_by_sample_steps"] is False


def test_settings_of_passes_are_written_only_where_they_count() -> None:
    settings = {"initial_noise_multiplier": 0.8, "img2img_extra_noise": 0.1,
                "hires_fix_refiner_pass": "both passes"}  # fmt: skip
    assert "noise" not in written(settings).lower()
    assert "Hires refiner" not in written(settings)
    text = written(settings, init_images=(PICTURE,), denoising_strength=0.5)
    assert "Noise multiplier: 0.8, Extra noise: 0.1" in text
    asked = written(settings, init_images=(PICTURE,), initial_noise_multiplier=1.0)
    assert "Noise multiplier" not in asked
    assert "Hires refiner: both passes" in written(settings, refiner="r.safetensors", **HIRES)
    assert "Tiling: True" in written({"tiling": True})
    assert "Tiling" not in written({"tiling": True}, tiling=False)


def test_a1111s_words_for_the_same_are_nothing() -> None:
    same = "Hires upscaler: Latent, Hires sampler: Use same sampler"
    text = f"x\nSteps: 5, Sampler: Euler, Seed: 1, {same}"
    request = request_from_infotext(parse_infotext(text))
    assert (request.hires, request.hires_sampler) == (True, "")
