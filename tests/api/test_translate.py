"""A1111's payload as a request."""

from __future__ import annotations

from typing import Any

import pytest

from sdforge.api.schemas import Txt2ImgRequest
from sdforge.api.translate import UnknownScript, filled_in, generation_request
from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.extensions.catalog import load_extensions

# What the client library `webuiapi` sends with every picture.
WEBUIAPI = {
    "enable_hr": False, "hr_scale": 2, "hr_upscaler": "Latent", "hr_second_pass_steps": 0,
    "hr_resize_x": 0, "hr_resize_y": 0, "hr_checkpoint_name": None, "hr_sampler_name": None,
    "hr_scheduler": None, "hr_prompt": "", "hr_negative_prompt": "", "denoising_strength": 0.7,
    "firstphase_width": 0, "firstphase_height": 0, "prompt": "a cat", "styles": [], "seed": -1,
    "subseed": -1, "subseed_strength": 0.0, "seed_resize_from_h": 0, "seed_resize_from_w": 0,
    "batch_size": 1, "n_iter": 1, "steps": 20, "cfg_scale": 7.0, "width": 512, "height": 512,
    "restore_faces": False, "tiling": False, "do_not_save_samples": False,
    "do_not_save_grid": False, "negative_prompt": "", "eta": 1.0, "s_churn": 0, "s_tmax": 0,
    "s_tmin": 0, "s_noise": 1, "override_settings": {},
    "override_settings_restore_afterwards": True, "sampler_name": "Euler a",
    "sampler_index": "Euler a", "scheduler": "automatic", "script_name": None, "script_args": [],
    "send_images": True, "save_images": False, "alwayson_scripts": {},
}  # fmt: skip


def no_pictures(data: bytes, field: str) -> InputImage:
    raise AssertionError(f"{field} was stored")


def request(**payload: Any) -> GenerationRequest:
    values = filled_in(Txt2ImgRequest.model_validate(payload))
    return generation_request(values, load_extensions(), add_input=no_pictures)


def test_an_empty_payload_is_a1111s_default() -> None:
    made = request()
    assert (made.steps, made.sampler, made.seed, made.batch_count) == (50, "Euler", -1, 1)
    assert (made.width, made.height, made.cfg_scale) == (None, None, None)


def test_everything_that_webuiapi_sends_passes() -> None:
    made = request(**WEBUIAPI)
    assert (made.sampler, made.steps, made.eta, made.s_noise) == ("Euler a", 20, 1.0, 1.0)


def test_names_of_a1111_reach_their_fields() -> None:
    made = request(n_iter=3, batch_size=2, sampler_name="LMS", scheduler="karras", subseed=4)
    assert (made.batch_count, made.batch_size, made.sampler) == (3, 2, "LMS")
    assert (made.schedule, made.subseed) == ("karras", 4)


@pytest.mark.parametrize("scheduler", [None, ""])
def test_an_empty_scheduler_leaves_the_choice_to_the_samplers_name(scheduler: object) -> None:
    assert request(sampler_name="DPM++ 2M Karras", scheduler=scheduler).schedule == ""


@pytest.mark.parametrize(
    "payload",
    [
        {"enable_hr": "false"},
        {"refiner_checkpoint": "None", "refiner_switch_at": 0.8},
        {"refiner_checkpoint": ""},
        {"restore_faces": None, "tiling": None},
        {"firstpass_image": ""},
        {"firstpass_image": "no hires fix", "firstphase_width": 64, "denoising_strength": 0.5},
        {"hr_prompt": "x", "hr_scale": 4, "hr_resize_x": 64, "hr_cfg": 3},
        {"script_name": ""},
        {"script_name": "None"},
        {"alwayson_scripts": {"Sampler": {"args": [20, "Euler", "Automatic"]}, "seed": [1]}},
        {"hr_upscaler": "R-ESRGAN 4x+", "hr_additional_modules": ["Use same choices"]},
        {"styles": [], "comments": {"a": 1}, "hr_distilled_cfg": 3},
        {"override_settings": {"forge_additional_modules": []}},
    ],
)
def test_values_that_mean_off_pass(payload: dict[str, Any]) -> None:
    assert request(**payload) == request()


def test_styles_and_networks_reach_the_request() -> None:
    made = request(styles=["oil", "None", 3], disable_extra_networks=True, s_min_uncond=1.5)
    assert made.styles == ("oil", "None")
    assert made.disable_extra_networks is True
    assert made.s_min_uncond == 1.5


def test_forges_module_list_is_an_override() -> None:
    sent = ["C:\\models\\VAE\\ae.safetensors", "clip_l.safetensors", "Use same choices"]
    made = request(override_settings={"forge_additional_modules": sent, "sd_vae": "other"})
    assert made.overrides["forge_additional_modules"] == sent[:2]
    assert made.overrides["sd_vae"] == "other"


@pytest.mark.parametrize(
    ("sent", "modules"),
    [
        (None, None),
        (["Use same choices"], None),
        (["Use same choices", "ae.safetensors"], None),
        ([], ()),
        (["Built-in"], ()),
        (["ae.safetensors", "clip_l"], ("ae.safetensors", "clip_l")),
    ],
)
def test_modules_of_the_second_pass(
    sent: list[str] | None, modules: tuple[str, ...] | None
) -> None:
    assert request(enable_hr=True, hr_additional_modules=sent).hires_modules == modules
    assert request(hr_additional_modules=sent).hires_modules is None


def test_an_infotext_says_the_second_passes_modules_unless_the_client_does() -> None:
    text = "a\nSteps: 5, Sampler: Euler, Hires upscale: 2, Hires Module 1: ae"
    assert request(infotext=text).hires_modules == ("ae",)
    assert request(infotext=text, hr_additional_modules=[]).hires_modules == ()


def test_overrides_without_effect_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    request(override_settings={"CLIP_stop_at_last_layers": 2, "clip_skip": 2})
    assert "['clip_skip']" in caplog.text


@pytest.mark.parametrize("modules", ["ae.safetensors", [1], {"a": 1}])
def test_a_module_list_of_another_shape_is_refused(modules: object) -> None:
    with pytest.raises(InvalidRequest, match="list of file names"):
        request(override_settings={"forge_additional_modules": modules})


def test_an_unknown_script_names_its_field() -> None:
    with pytest.raises(UnknownScript) as caught:
        request(alwayson_scripts={"Unheard Of": {"args": [True]}})
    assert caught.value.field == "alwayson_scripts"


INFOTEXT = (
    "an owl\nNegative prompt: day\nSteps: 12, Sampler: LMS, Schedule type: Karras, CFG scale: 3.5, "
    "Seed: 8, Size: 96x128, Model: somewhere, VAE: x.pt, Clip skip: 2, ENSD: 31337"
)


def test_an_infotext_fills_what_was_not_sent() -> None:
    made = request(infotext=INFOTEXT, steps=5, override_settings={"CLIP_stop_at_last_layers": 1})
    assert (made.prompt, made.negative_prompt, made.steps) == ("an owl", "day", 5)
    assert (made.sampler, made.schedule, made.cfg_scale) == ("LMS", "Karras", 3.5)
    assert (made.seed, made.width, made.height) == (8, 96, 128)
    assert made.overrides["CLIP_stop_at_last_layers"] == 1
    assert made.overrides["eta_noise_seed_delta"] == 31337


CONTROLLED = (
    "a fox\nSteps: 2, Sampler: Euler, CFG scale: 7.0, Seed: 1, "
    'ControlNet 0: "Module: canny, Model: edges, Weight: 0.5, Hires-Fix Option: Low res only", '
    'ControlNet 2: "Module: invert, Model: lines"'
)


def test_an_infotext_brings_its_controlnet_units_where_nothing_else_was_sent() -> None:
    first, second = request(infotext=CONTROLLED).control
    assert (first.model, first.module, first.weight) == ("edges", "canny", 0.5)
    assert (first.hires_option, first.image) == ("Low res only", None)
    assert (second.model, second.module, second.weight) == ("lines", "invert", 1.0)


def test_a_unit_that_was_sent_is_filled_by_the_infotexts_of_its_number() -> None:
    sent = {"controlnet": {"args": [{"weight": 1.5}, None, {"enabled": False}]}}
    (unit,) = request(infotext=CONTROLLED, alwayson_scripts=sent).control
    assert (unit.model, unit.module, unit.weight) == ("edges", "canny", 1.5)


def test_an_infotext_changes_neither_checkpoint_nor_vae() -> None:
    made = request(infotext=INFOTEXT)
    assert made.checkpoint == ""
    assert not {"sd_model_checkpoint", "sd_vae"} & set(made.overrides)


def test_a_sampler_that_was_sent_wins_over_the_infotexts() -> None:
    assert request(infotext=INFOTEXT, sampler_index="Euler a").sampler == "Euler a"


def test_an_infotext_without_a_word_of_use_changes_nothing_else() -> None:
    made = request(infotext="just a prompt")
    assert (made.prompt, made.steps, made.sampler) == ("just a prompt", 50, "Euler")


def test_an_infotext_may_ask_for_hires_fix_unless_the_client_says_no() -> None:
    text = "an owl\nSteps: 12, Sampler: LMS, Hires upscale: 3, Hires upscaler: Lanczos"
    made = request(infotext=text)
    assert (made.hires, made.hires_scale, made.hires_upscaler) == (True, 3.0, "Lanczos")
    assert not request(infotext=text, enable_hr=False).hires
