"""Requests: validation, resolution, seeds, and the way through JSON."""

import json
import random

import pytest

from sdforge.core.errors import InvalidRequest
from sdforge.core.request import GenerationRequest, Limits, Recommended, resolve, validate

LIMITS = Limits(pixels_per_image=2**22, images_per_job=10)


def resolved(
    request: GenerationRequest, recommended: Recommended | None = None
) -> GenerationRequest:
    return resolve(
        request,
        checkpoint="model.safetensors",
        recommended=recommended or Recommended(),
        sampler="Euler",
        schedule="Karras",
        rng=random.Random(1),
    )


def test_resolving_leaves_nothing_open() -> None:
    made = resolved(GenerationRequest())
    assert (made.width, made.height, made.cfg_scale) == (512, 512, 7.0)
    assert (made.sampler, made.schedule, made.checkpoint) == (
        "Euler",
        "Karras",
        "model.safetensors",
    )
    assert made.seed >= 0
    assert made.subseed >= 0


def test_resolving_twice_changes_nothing() -> None:
    once = resolved(GenerationRequest())
    assert resolved(once) == once


def test_a_small_model_gets_its_own_size_and_a_large_one_the_expected_512() -> None:
    small = Recommended(width=128, height=128, cfg_scale=3.0)
    assert (
        resolved(GenerationRequest(), small).width,
        resolved(GenerationRequest(), small).cfg_scale,
    ) == (
        128,
        3.0,
    )
    large = Recommended(width=1024, height=1024)
    assert resolved(GenerationRequest(), large).width == 512
    assert resolved(GenerationRequest(width=256), small).width == 256


def test_what_distilled_models_are_told_follows_the_checkpoint_where_nobody_names_it() -> None:
    fill = Recommended(distilled_cfg_scale=30.0)
    assert resolved(GenerationRequest()).distilled_cfg_scale == 3.5
    assert resolved(GenerationRequest(), fill).distilled_cfg_scale == 30.0
    assert resolved(GenerationRequest(distilled_cfg_scale=3.5), fill).distilled_cfg_scale == 3.5


def test_sizes_are_rounded_down_to_multiples_of_eight() -> None:
    made = resolved(GenerationRequest(width=519, height=64))
    assert (made.width, made.height) == (512, 64)


def test_seeds_count_up_unless_a_variation_is_asked_for() -> None:
    plain = GenerationRequest(seed=5)
    assert [plain.image_seed(i) for i in range(3)] == [5, 6, 7]
    varied = GenerationRequest(seed=5, subseed=9, subseed_strength=0.1)
    assert [varied.image_seed(i) for i in range(3)] == [5, 5, 5]
    assert [varied.image_subseed(i) for i in range(3)] == [9, 10, 11]
    assert GenerationRequest(seed=2**32 - 1).image_seed(1) == 0


def test_too_many_pictures_and_too_many_pixels_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="n_iter"):
        validate(GenerationRequest(batch_size=4, batch_count=3), LIMITS)
    with pytest.raises(InvalidRequest, match="width"):
        validate(GenerationRequest(width=4096, height=2048), LIMITS)
    validate(GenerationRequest(batch_size=5, batch_count=2, width=2048, height=2048), LIMITS)


def test_requests_survive_json_and_unknown_keys() -> None:
    request = GenerationRequest(prompt="ä, 猫\n", seed=7, overrides={"CLIP_stop_at_last_layers": 2})
    values = json.loads(json.dumps(request.to_json()))
    values["of_a_later_version"] = 1
    assert GenerationRequest.from_json(values) == request
