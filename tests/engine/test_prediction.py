"""How long a request will take: each checkpoint at its own pace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdforge.core.control import ControlUnit
from sdforge.core.detail import Detail
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.engine.job import Job, JobImage
from sdforge.engine.prediction import predict_seconds, telling, work_of

# Of the work of a picture of 64 × 64 at 10 steps.
SLOW, FAST = 40.0, 10.0


def asked(checkpoint: str = "fast", **values: Any) -> GenerationRequest:
    drawn = {"steps": 10, "width": 64, "height": 64, "cfg_scale": 7.0, "checkpoint": checkpoint}
    return GenerationRequest(**(drawn | values))


def done(request: GenerationRequest, denoise: float, **timings: float) -> Job:
    image = JobImage(
        index=0, path=None, media_type="image/png", infotext="", seed=1, width=64, height=64
    )
    return Job(
        id="x", kind="txt2img", origin="api", request=request, settings=Settings(),
        save_images=True, created_at=0.0, images=(image,),
        timings={"denoise": denoise, **timings},
    )  # fmt: skip


def hires(checkpoint: str, second: str = "", **values: Any) -> GenerationRequest:
    return asked(
        checkpoint, hires=True, hires_scale=2.0, denoising_strength=0.5, hires_checkpoint=second,
        **values,
    )  # fmt: skip


def test_a_second_pass_with_another_checkpoint_goes_at_that_ones_pace() -> None:
    past = [done(asked("fast"), FAST), done(asked("slow"), SLOW)]
    # Twice as wide and high at half the strength is twice the work of the first pass.
    assert predict_seconds(hires("fast"), past) == FAST + 2 * FAST
    assert predict_seconds(hires("fast", "slow"), past) == FAST + 2 * SLOW
    assert predict_seconds(hires("slow", "fast"), past) == SLOW + 2 * FAST


def test_without_a_word_on_one_of_its_checkpoints_nothing_is_predicted() -> None:
    assert predict_seconds(hires("fast", "slow"), [done(asked("fast"), FAST)]) is None
    mixed = done(hires("fast", "slow"), 90.0)
    assert predict_seconds(asked("slow"), [mixed]) is None


def test_a_job_of_the_same_checkpoints_tells_most() -> None:
    past = [done(asked("fast"), FAST), done(asked("slow"), SLOW), done(hires("fast", "slow"), 60.0)]
    assert predict_seconds(hires("fast", "slow"), past) == 60.0


def test_a_refiner_takes_its_share() -> None:
    past = [done(asked("fast"), FAST), done(asked("slow"), SLOW)]
    refined = asked("fast", refiner="slow", refiner_switch_at=0.75)
    assert predict_seconds(refined, past) == pytest.approx(0.75 * FAST + 0.25 * SLOW)


def test_details_are_counted_once_each() -> None:
    detail = Detail(detector="x", strength=0.5)
    own = replace(detail, checkpoint="slow", size=(128, 64), steps=20)

    def of(request: GenerationRequest) -> list[Detail]:
        return [detail, own] if request.seed == 7 else []

    past = [done(asked("fast"), FAST, encode=1.0, decode=2.0), done(asked("slow"), SLOW)]
    assert predict_seconds(asked("fast"), past, of) == FAST + 3
    assert work_of(asked("fast", seed=7), of(asked(seed=7))).keys() == {"fast", "slow"}
    # The slow one draws last: what stands around sampling is its.
    assert predict_seconds(asked("fast", seed=7), past, of) == FAST * 1.5 + SLOW * 2


def test_guidance_doubles_the_work_and_reused_passes_tell_nothing() -> None:
    past = [done(asked("fast"), 1.0, reuse=0.1), done(asked("fast"), FAST)]
    assert predict_seconds(asked("fast", cfg_scale=1.0), past) == FAST / 2
    assert [job.timings["denoise"] for job in telling(past)] == [FAST]


SMALL, WIDE = (InputImage("0" * 64, side, side) for side in (64, 9000))


def test_pictures_to_refer_to_are_read_and_then_seen_in_each_step() -> None:
    past = [done(asked(references=(SMALL,)), 8.0, decode=2.0, input=3.0)]
    assert predict_seconds(asked(references=(SMALL,)), past) == 8 + 2 + 3
    assert predict_seconds(asked(references=(SMALL, SMALL)), past) == 8 * 3 / 2 + 2 + 2 * 3
    assert predict_seconds(asked(), past) == 4 + 2
    # One that read none tells by its decoding; a large picture is shown as a megapixel.
    share = 1024**2 / 64**2
    plain = [done(asked(), 4.0, decode=2.0)]
    assert predict_seconds(asked(references=(WIDE,)), plain) == 4 * (1 + share) + 2 + 2 * share


@pytest.mark.parametrize(
    "given",
    [
        {"init_images": (SMALL,), "denoising_strength": 1.0},
        {"control": (ControlUnit(model="x", image=SMALL),)},
    ],
)
def test_pictures_to_change_and_to_steer_by_are_read(given: dict[str, Any]) -> None:
    past = [done(asked(**given), 8.0, decode=2.0, input=3.0)]
    assert predict_seconds(asked(**given), past) == 8 + 2 + 3
    assert predict_seconds(asked(**given), [done(asked(), 8.0, decode=2.0)]) == 8 + 2 + 2
