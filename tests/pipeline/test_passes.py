"""What passes a request has, and how many steps each walks: A1111's arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.models.bundle import ModelBundle
from sdforge.pipeline.passes import Pass, plan_passes
from sdforge.sampling.sigmas import make_sigmas
from tests.tiny import Parts

PICTURE = InputImage("0" * 64, 64, 64)


@pytest.fixture(scope="module")
def bundle(loaded: Parts) -> ModelBundle:
    return loaded.provider.get("")


def planned(settings: dict[str, Any] | None = None, **values: Any) -> tuple[Pass, ...]:
    asked = {"width": 64, "height": 48, "cfg_scale": 7.0, "steps": 20, "schedule": "Karras",
             "sampler": "Euler", "checkpoint": "a"} | values  # fmt: skip
    return plan_passes(GenerationRequest(**asked), Settings().with_overrides(settings or {}))


@pytest.mark.parametrize(
    ("steps", "strength", "walked"),
    [(20, 0.75, 16), (20, 0.5, 11), (20, 1.0, 20), (20, 0.0, 1), (1, 0.4, 1), (50, 0.75, 38)],
)
def test_img2img_walks_the_share_of_its_strength_and_one_more_step(
    bundle: ModelBundle, steps: int, strength: float, walked: int
) -> None:
    (one,) = planned(init_images=(PICTURE,), steps=steps, denoising_strength=strength)
    sigmas = one.sigmas(bundle.denoiser, Settings())
    assert one.planned_steps == walked
    assert sigmas == make_sigmas("Karras", steps, bundle.denoiser)[steps - walked :]
    assert len(sigmas) == walked + 1


@pytest.mark.parametrize(
    ("steps", "strength", "whole"), [(20, 0.75, 26), (20, 0.5, 40), (10, 0.999, 10), (5, 1.0, 5)]
)
def test_fixed_steps_walk_all_of_a_schedule_made_longer(
    bundle: ModelBundle, steps: int, strength: float, whole: int
) -> None:
    values = {"init_images": (PICTURE,), "steps": steps, "denoising_strength": strength}
    (one,) = planned({"img2img_fix_steps": True}, **values)
    sigmas = one.sigmas(bundle.denoiser, Settings())
    assert sigmas == make_sigmas("Karras", whole, bundle.denoiser)[whole - steps :]
    assert len(sigmas) == steps + 1


def test_the_second_pass_does_all_its_steps_and_none_at_strength_zero(
    bundle: ModelBundle,
) -> None:
    base, hires = planned(hires=True, denoising_strength=0.5, hires_steps=7)
    assert (base.planned_steps, hires.planned_steps) == (20, 7)
    assert len(hires.sigmas(bundle.denoiser, Settings())) == 8
    assert (base.steps_after, hires.steps_before) == (7, 20)
    _, none = planned(hires=True, denoising_strength=0.0)
    assert none.sigmas(bundle.denoiser, Settings()) == ()


@pytest.mark.parametrize("strength", [1e-9, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("sampler", ["DDIM", "DPM++ SDE"])
def test_every_sampler_gets_usable_sigmas_at_any_strength(
    bundle: ModelBundle, sampler: str, strength: float
) -> None:
    _, hires = planned(hires=True, denoising_strength=strength, hires_sampler=sampler)
    sigmas = hires.sigmas(bundle.denoiser, Settings())
    assert len(sigmas) >= 2
    assert all(early > late for early, late in zip(sigmas, sigmas[1:], strict=False))


def test_the_second_pass_takes_what_it_is_given_and_else_the_firsts() -> None:
    base, same = planned(hires=True, denoising_strength=0.7)
    assert (same.sampler, same.schedule, same.steps, same.cfg_scale, same.checkpoint) == (
        base.sampler, base.schedule, base.steps, base.cfg_scale, base.checkpoint,
    )  # fmt: skip
    _, own = planned(
        hires=True, denoising_strength=0.7, hires_sampler="LMS", hires_schedule="Normal",
        hires_steps=3, hires_cfg_scale=2.0, hires_checkpoint="b",
    )  # fmt: skip
    assert (own.sampler, own.schedule, own.steps, own.cfg_scale, own.checkpoint) == (
        "LMS", "Normal", 3, 2.0, "b",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "covered", "final"),
    [
        ({"hires_scale": 1.5}, (96, 72), (96, 72)),
        ({"hires_scale": 1.3}, (80, 56), (80, 56)),
        ({"hires_width": 128}, (128, 96), (128, 96)),
        ({"hires_height": 96}, (128, 96), (128, 96)),
        ({"hires_width": 128, "hires_height": 128}, (168, 128), (128, 128)),
        ({"hires_width": 128, "hires_height": 64}, (128, 96), (128, 64)),
    ],
)
def test_one_side_follows_the_other_and_both_are_covered_and_cropped(
    asked: dict[str, Any], covered: tuple[int, int], final: tuple[int, int]
) -> None:
    request = GenerationRequest(width=64, height=48, hires=True, **asked)
    assert (request.hires_size, request.final_size) == (covered, final)


@pytest.mark.parametrize(
    ("when", "base", "hires"),
    [("second pass", "", "r"), ("first pass", "r", ""), ("both passes", "r", "r")],
)
def test_a_setting_says_in_which_pass_the_refiner_works(when: str, base: str, hires: str) -> None:
    passes = planned(
        {"hires_fix_refiner_pass": when}, hires=True, refiner="r", denoising_strength=0.5
    )
    assert [one.refiner for one in passes] == [base, hires]
    assert planned({"hires_fix_refiner_pass": when}, refiner="r")[0].refiner == "r"


def test_prompts_of_the_second_pass_count_their_time_from_the_first() -> None:
    base, hires = planned(
        hires=True, denoising_strength=0.5, sampler="Heun", hires_sampler="Euler", hires_steps=8
    )
    assert base.timeline(old=False).calls == 40
    assert (hires.timeline(old=False).calls, hires.timeline(old=False).first_pass) == (8, 40)
