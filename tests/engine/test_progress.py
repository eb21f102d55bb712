import pytest

from sdforge.core.events import Event, ModelLoading, Notice, StageStarted, StepDone
from sdforge.engine.job import Progress
from sdforge.engine.progress import ProgressMeter


class Clock:
    """Time that passes when the test says so, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def a_step(step: int, batch: int = 0) -> StepDone:
    return StepDone(step=step, steps=10, batch=batch, batch_count=2)


def a_stage(stage: str, batch: int = 0) -> StageStarted:
    return StageStarted(stage=stage, batch=batch, batch_count=2)


def after(*events: Event) -> Progress:
    meter = ProgressMeter(batch_count=2)
    for event in events:
        meter.update(event)
    return meter.progress


def test_while_loading_it_is_at_one_percent_without_an_estimate() -> None:
    progress = after(a_stage("load"), ModelLoading(name="cat.safetensors", fraction=0.4))
    assert progress.fraction == 0.01
    assert progress.eta_seconds is None
    assert progress.stage == "load"
    assert progress.text == "Loading cat.safetensors: 40%"


@pytest.mark.parametrize(
    ("events", "fraction"),
    [
        ([a_stage("denoise"), a_step(5)], 0.26),
        ([a_stage("denoise"), a_step(10), a_stage("decode")], 0.51),
        ([a_stage("denoise"), a_step(10), a_stage("denoise", 1)], 0.51),
        ([a_stage("denoise", 1), a_step(5, 1)], 0.76),
        ([a_stage("denoise", 1), a_step(10, 1)], 1.0),
    ],
)
def test_the_fraction_is_that_of_a1111(events: list[Event], fraction: float) -> None:
    assert after(*events).fraction == pytest.approx(fraction)


def test_the_fraction_never_falls_when_a_batch_is_skipped() -> None:
    progress = after(a_stage("denoise"), a_step(9), a_stage("decode"), a_stage("denoise", 1))
    assert progress.step == 0
    assert progress.fraction == pytest.approx(0.51)


def test_the_estimate_counts_from_the_end_of_loading() -> None:
    clock = Clock()
    meter = ProgressMeter(batch_count=2, clock=clock)
    meter.update(a_stage("load"))
    clock.now += 30
    meter.update(a_stage("encode"))
    clock.now += 2
    progress = meter.update(a_step(5))
    assert progress.eta_seconds == pytest.approx(2 / 0.25 - 2)


def test_timings_add_up_by_stage() -> None:
    clock = Clock()
    meter = ProgressMeter(batch_count=2, clock=clock)
    for stage, seconds in [("load", 5), ("denoise", 3), ("decode", 1), ("denoise", 3)]:
        meter.update(a_stage(stage))
        clock.now += seconds
    meter.finish()
    assert meter.timings == {"load": 5, "denoise": 6, "decode": 1}


def test_the_text_names_the_batch_when_there_are_several() -> None:
    assert after(a_stage("denoise", 1)).text == "Batch 2 out of 2"
    single = ProgressMeter(batch_count=1)
    single.update(StageStarted(stage="denoise"))
    assert single.progress.text == ""


def test_notices_are_kept_once_each() -> None:
    meter = ProgressMeter(1)
    for text in ("no LoRA 'a'", "no LoRA 'b'", "no LoRA 'a'"):
        meter.update(Notice(text=text))
    assert meter.progress.notices == ("no LoRA 'a'", "no LoRA 'b'")
