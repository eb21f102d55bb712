"""Infotext: A1111's layout, and everything we write can be read back."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo, ModelIdentity
from sdforge.core.settings import Settings
from sdforge.output.infotext import (
    Infotext,
    a1111_parameters,
    parse_infotext,
    request_from_infotext,
    write_infotext,
)

REQUEST = GenerationRequest(
    prompt="a cat",
    negative_prompt="dog",
    steps=20,
    sampler="DPM++ 2M",
    schedule="Karras",
    width=512,
    height=640,
    cfg_scale=7.0,
    seed=1,
    subseed=5,
    checkpoint="v1-5.safetensors [6ce0161689]",
)
MODEL = ModelIdentity(title="v1-5.safetensors", name="v1-5", sha256="6ce0161689" + "0" * 54)


def info_of(request: GenerationRequest, **more: Any) -> GenerationInfo:
    values: dict[str, Any] = {
        "request": request,
        "index": 0,
        "seed": request.seed,
        "subseed": request.subseed,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "model": MODEL,
        "version": "0.1",
    }
    return GenerationInfo(**(values | more))


def written(request: GenerationRequest, settings: Settings | None = None, **more: Any) -> str:
    return write_infotext(info_of(request, **more), settings or Settings())


# --- writing


def test_the_layout_is_a1111s() -> None:
    assert written(REQUEST) == (
        "a cat\n"
        "Negative prompt: dog\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 1, "
        "Size: 512x640, Model hash: 6ce0161689, Model: v1-5, Version: sdforge-0.1"
    )


def test_empty_prompts_leave_no_empty_lines() -> None:
    assert written(replace(REQUEST, prompt="", negative_prompt=" ")).startswith("Steps: 20, ")


def test_the_line_of_the_picture_tells_its_own_seeds_and_prompt() -> None:
    request = replace(
        REQUEST, subseed_strength=0.25, seed_resize_from_w=256, seed_resize_from_h=384
    )
    text = written(request, seed=11, subseed=12, prompt="picture's own")
    assert text.startswith("picture's own\n")
    assert "Seed: 11, " in text
    assert "Variation seed: 12, Variation seed strength: 0.25, Seed resize from: 256x384, " in text


def test_settings_are_written_only_where_they_differ_from_the_default() -> None:
    settings = Settings().with_overrides(
        {"eta_noise_seed_delta": 31337, "randn_source": "CPU", "emphasis": "No norm", "rho": 5,
         "always_discard_next_to_last_sigma": True, "eta_ancestral": 0.5, "s_churn": 2}
    )  # fmt: skip
    text = written(REQUEST, settings, clip_skip=2)
    assert "Model: v1-5, Clip skip: 2, ENSD: 31337, RNG: CPU, Eta: 0.5, Sigma churn: 2.0, " in text
    assert "Emphasis: No norm, Schedule rho: 5.0, Discard penultimate sigma: True, " in text


def test_eta_is_that_of_the_samplers_kind() -> None:
    settings = Settings(eta_ddim=0.25, eta_ancestral=0.5)
    assert "Eta: 0.5" in written(REQUEST, settings)
    ddim = written(replace(REQUEST, sampler="DDIM"), settings)
    assert "Eta DDIM: 0.25" in ddim and "Eta: " not in ddim
    assert "Eta: 0.75" in written(replace(REQUEST, sampler="DDIM", eta=0.75), settings)


def test_names_hashes_and_version_can_be_left_out() -> None:
    settings = Settings(
        add_model_name_to_info=False, add_model_hash_to_info=False, add_version_to_infotext=False
    )
    assert written(REQUEST, settings).endswith("Size: 512x640")


def test_extra_keys_come_before_the_version_and_keep_a_place_already_taken() -> None:
    text = written(REQUEST, extra={"Schedule type": "Exponential", "Lora hashes": "a: 12, b: 34"})
    assert "Sampler: DPM++ 2M, Schedule type: Exponential, CFG scale" in text
    assert text.endswith('Model: v1-5, Lora hashes: "a: 12, b: 34", Version: sdforge-0.1')


# --- reading back


PROMPTS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["a cat", "Negative prompt: dog", " Negative prompt:", "Steps: 20, Sampler: Euler, "
             "Seed: 1, Size: 64x64", '"quoted, text": \\', "猫 🐈", "", "  ", "BREAK", "x\r",
             "Prompt lines: 1, Seed: 3, Steps: 4"]
        )
    ).map("\n".join),
)  # fmt: skip
NAMES = st.text(min_size=1)
FLOATS = st.floats(0, 10, allow_nan=False)


@given(
    PROMPTS,
    PROMPTS,
    NAMES,
    NAMES,
    st.integers(1, 1000),
    st.floats(0, 100),
    st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_read_back(
    prompt: str, negative: str, model: str, extra: str, steps: int, cfg: float, seed: int
) -> None:
    request = replace(
        REQUEST, prompt=prompt, negative_prompt=negative, steps=steps, cfg_scale=cfg, seed=seed
    )
    text = written(request, model=replace(MODEL, name=model), extra={"Anything": extra})
    parsed = parse_infotext(text)
    assert parsed.prompt == prompt.strip()
    assert parsed.negative_prompt == negative.strip()
    assert parsed.fields["Model"] == model
    assert parsed.fields["Anything"] == extra
    again = request_from_infotext(parsed)
    expected = replace(
        request, prompt=prompt.strip(), negative_prompt=negative.strip(), subseed=-1,
        checkpoint=model,
    )  # fmt: skip
    assert again == expected


@given(st.fixed_dictionaries({
    "eta": FLOATS, "s_churn": FLOATS, "s_tmin": FLOATS, "s_tmax": FLOATS, "s_noise": FLOATS,
    "subseed_strength": st.floats(0.01, 1), "seed_resize_from_w": st.integers(1, 100),
    "seed_resize_from_h": st.integers(1, 100), "subseed": st.integers(0, 2**32 - 1),
}))  # fmt: skip
def test_rare_fields_are_read_back(values: dict[str, Any]) -> None:
    request = replace(REQUEST, checkpoint="v1-5", **values)
    assert request_from_infotext(parse_infotext(written(request))) == request


SETTINGS = st.fixed_dictionaries({}, optional={
    "CLIP_stop_at_last_layers": st.integers(1, 12), "eta_noise_seed_delta": st.integers(),
    "randn_source": st.sampled_from(["GPU", "CPU", "NV"]),
    "emphasis": st.sampled_from(["None", "Ignore", "Original", "No norm"]),
    "rho": FLOATS, "sigma_min": st.floats(0, 2), "sigma_max": st.floats(0, 60),
    "always_discard_next_to_last_sigma": st.booleans(), "sgm_noise_multiplier": st.booleans(),
})  # fmt: skip


@given(SETTINGS, SETTINGS)
def test_settings_of_the_picture_become_overrides_where_they_differ(
    made_with: dict[str, Any], here: dict[str, Any]
) -> None:
    made, current = Settings().with_overrides(made_with), Settings().with_overrides(here)
    text = written(REQUEST, made, clip_skip=made.CLIP_stop_at_last_layers)
    request = request_from_infotext(parse_infotext(text), current)
    assert current.with_overrides(request.overrides) == made
    assert all(getattr(current, key) != value for key, value in request.overrides.items())


def test_etas_in_the_settings_become_request_fields_or_overrides() -> None:
    made, current = Settings(eta_ancestral=0.5), Settings(eta_ancestral=0.25)
    assert request_from_infotext(parse_infotext(written(REQUEST, made))).eta == 0.5
    plain = request_from_infotext(parse_infotext(written(REQUEST)), current)
    assert plain.eta is None and plain.overrides == {"eta_ancestral": 1.0}


def test_a_sampler_setting_in_force_beats_the_requests_value() -> None:
    text = written(replace(REQUEST, s_churn=1.0), Settings(s_churn=2.0))
    assert "Sigma churn: 2.0" in text
    request = request_from_infotext(parse_infotext(text), Settings(s_churn=5.0))
    assert request.s_churn == 2.0 and request.overrides == {"s_churn": 0.0}


# --- other programs' texts


def test_text_without_parameters_is_all_prompt() -> None:
    parsed = parse_infotext("a cat\nSteps: 20, Seed: 1")
    assert parsed == Infotext(prompt="a cat\nSteps: 20, Seed: 1")
    assert request_from_infotext(parsed, Settings(eta_ancestral=0.5)).overrides == {}


def test_old_sampler_names_are_split_into_sampler_and_schedule() -> None:
    for name, schedule in (("DPM++ 2M SDE Karras", "Karras"), ("DPM++ 3M SDE Exponential",
                                                               "Exponential")):  # fmt: skip
        parsed = parse_infotext(f"x\nSteps: 30, Sampler: {name}, CFG scale: 7, Seed: 1")
        request = request_from_infotext(parsed)
        assert f"{request.sampler} {request.schedule}" == name
        assert request.schedule == schedule
        assert a1111_parameters(parsed)["Schedule type"] == schedule


def test_a_civitai_picture_is_understood() -> None:
    text = (
        "masterpiece, 1girl, <lora:x:1>\nNegative prompt: (worst:1.2)\nSteps: 25, Sampler: "
        "Undefined, CFG scale: 7, Seed: 3, Size: 832x1216, Clip skip: 2, Created Date: "
        '2024-06-01T10:00:00Z, Civitai resources: [{"type":"checkpoint","modelVersionId":1}], '
        "Civitai metadata: {}"
    )
    parsed = parse_infotext(text)
    assert parsed.fields["Civitai resources"] == '[{"type":"checkpoint","modelVersionId":1}]'
    assert parsed.fields["Created Date"] == "2024-06-01T10:00:00Z"
    assert "modelVersionId" not in parsed.fields
    request = request_from_infotext(parsed)
    assert (request.width, request.height, request.steps) == (832, 1216, 25)
    assert request.sampler == GenerationRequest().sampler
    assert request.overrides == {"CLIP_stop_at_last_layers": 2}


def test_values_that_cannot_be_used_are_left_out() -> None:
    text = "Steps: many, CFG scale: nan, Seed: 1e999, Size: 1x99999999, RNG: dice, Clip skip: 99"
    assert request_from_infotext(parse_infotext(text)) == GenerationRequest()


def test_whole_numbers_written_as_floats_count() -> None:
    parsed = parse_infotext("Steps: 20.0, CFG scale: 7, Seed: 3.0, Clip skip: 2.0")
    request = request_from_infotext(parsed)
    assert (request.steps, request.cfg_scale, request.seed) == (20, 7.0, 3)
    assert request.overrides == {"CLIP_stop_at_last_layers": 2}


def test_the_first_pass_is_the_size_in_very_old_texts() -> None:
    text = "Steps: 20, Sampler: Euler, Seed: 1, Size: 1024x1024, First pass size: 512x512"
    request = request_from_infotext(parse_infotext(text))
    assert (request.width, request.height) == (512, 512)
    values = a1111_parameters(parse_infotext(text))
    assert (values["Size-1"], values["Hires resize-1"]) == ("512", "1024")


def test_the_hash_names_the_model_when_nothing_else_does() -> None:
    parsed = parse_infotext("Steps: 20, Sampler: Euler, Model hash: 6ce0161689")
    assert request_from_infotext(parsed).checkpoint == "6ce0161689"


def test_a1111_parameters_are_texts_with_sizes_split_and_gaps_filled() -> None:
    values = a1111_parameters(parse_infotext(written(REQUEST)))
    assert values["Prompt"] == "a cat" and values["Negative prompt"] == "dog"
    assert (values["Size-1"], values["Size-2"], values["Steps"]) == ("512", "640", "20")
    assert values["Clip skip"] == "1" and values["Schedule type"] == "Karras"
    assert "Size" not in values and "Emphasis" not in values
    assert all(isinstance(value, str) for value in values.values())
    weighted = a1111_parameters(parse_infotext(written(replace(REQUEST, prompt="(a:1.2)"))))
    assert weighted["Emphasis"] == "Original"
    assert a1111_parameters(parse_infotext(""))["RNG"] == "GPU"


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    request_from_infotext(parse_infotext(text), Settings())
    request_from_infotext(parse_infotext(f"Steps: 1, Seed: 2, Size: {text}, Model: x"))


@pytest.mark.timeout(5)
@pytest.mark.parametrize("line", [",", "a: [", 'a: "', "[[", "aa", "x:{"])
def test_long_rubbish_is_parsed_in_linear_time(line: str) -> None:
    parse_infotext(line * 100_000)
