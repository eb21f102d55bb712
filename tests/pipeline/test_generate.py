"""txt2img through all stages: determinism, batches, guidance, stopping, memory modes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sdforge.core.errors import Cancelled
from sdforge.core.events import Event, PreviewReady, StageStarted, StepDone
from sdforge.memory.device import Device
from sdforge.memory.simulated import SimulatedDevice
from tests.pipeline.conftest import Pipeline

MIB = 1024 * 1024


def difference(first: np.ndarray, second: np.ndarray) -> int:
    """Largest difference in 8-bit levels."""
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def test_the_same_request_gives_the_same_pixels_and_another_seed_others(pipeline: Pipeline) -> None:
    first, again, other = (pipeline.draw(seed=seed)[0].pixels for seed in (7, 7, 8))

    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    assert difference(first, other) > 8


def test_prompt_and_negative_prompt_change_the_picture(pipeline: Pipeline) -> None:
    plain = pipeline.draw()[0].pixels
    assert not np.array_equal(plain, pipeline.draw(prompt="a dog")[0].pixels)
    assert not np.array_equal(plain, pipeline.draw(negative_prompt="red")[0].pixels)


def test_without_guidance_the_negative_prompt_has_no_effect(pipeline: Pipeline) -> None:
    one = pipeline.draw(cfg_scale=1.0)[0].pixels
    other = pipeline.draw(cfg_scale=1.0, negative_prompt="red")[0].pixels
    assert np.array_equal(one, other)


def test_at_scale_zero_only_the_negative_prompt_counts(pipeline: Pipeline) -> None:
    one = pipeline.draw(cfg_scale=0.0, negative_prompt="red")[0].pixels
    other = pipeline.draw(cfg_scale=0.0, negative_prompt="red", prompt="a dog")[0].pixels
    assert np.array_equal(one, other)
    alone = pipeline.draw(cfg_scale=1.0, prompt="red")[0].pixels
    assert difference(one, alone) <= 1


def test_sizes_need_not_be_square(pipeline: Pipeline) -> None:
    assert pipeline.draw(width=96, height=40)[0].pixels.shape == (40, 96, 3)


@pytest.mark.parametrize(
    "sampler",
    ["Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "DDIM", "UniPC", "TCD", "Euler a CFG++"],
)
def test_each_picture_of_a_batch_equals_the_single_one_of_its_seed(
    pipeline: Pipeline, sampler: str
) -> None:
    batch = pipeline.draw(batch_size=2, batch_count=2, seed=10, sampler=sampler)

    assert [result.info.seed for result in batch] == [10, 11, 12, 13]
    assert [result.index for result in batch] == [0, 1, 2, 3]
    for result in batch:
        single = pipeline.draw(seed=result.info.seed, sampler=sampler)[0]
        assert difference(result.pixels, single.pixels) <= 1


def test_splitting_cond_and_uncond_changes_at_most_one_level(pipeline: Pipeline) -> None:
    together = pipeline.draw()[0].pixels
    apart = pipeline.draw(settings={"batch_cond_uncond": False})[0].pixels
    assert difference(together, apart) <= 1


def test_prompts_of_different_lengths_are_padded(pipeline: Pipeline) -> None:
    long = ", ".join(["a very long prompt"] * 30)
    assert len(pipeline.draw(prompt=long, negative_prompt="short")) == 1
    assert len(pipeline.draw(prompt="", negative_prompt=long)) == 1


def test_a_prompt_longer_than_its_negative_is_drawn_as_if_both_ran_alone(
    pipeline: Pipeline,
) -> None:
    long = ", ".join(["a very long prompt"] * 30)
    together = pipeline.draw(prompt=long, negative_prompt="short")[0].pixels
    apart = pipeline.draw(
        prompt=long, negative_prompt="short", settings={"batch_cond_uncond": False}
    )[0].pixels
    assert difference(together, apart) <= 1
    for setting in ("pad_cond_uncond", "pad_cond_uncond_v0"):
        padded = pipeline.draw(prompt=long, negative_prompt="short", settings={setting: True})
        assert difference(together, padded[0].pixels) > 1


def test_a_prompt_edited_at_the_end_is_the_first_and_at_the_start_the_second(
    pipeline: Pipeline,
) -> None:
    first, second = (pipeline.draw(prompt=f"a {word}")[0].pixels for word in ("cat", "dog"))
    late = pipeline.draw(prompt="a [cat:dog:1.0]")[0].pixels
    early = pipeline.draw(prompt="a [cat:dog:0]")[0].pixels
    between = pipeline.draw(prompt="a [cat:dog:0.5]")[0].pixels
    turns = pipeline.draw(prompt="a [cat|dog]")[0].pixels
    assert np.array_equal(late, first)
    assert np.array_equal(early, second)
    for one in (between, turns):
        assert not np.array_equal(one, first)
        assert not np.array_equal(one, second)
    assert not np.array_equal(between, turns)


def test_negative_prompts_change_over_time_too(pipeline: Pipeline) -> None:
    plain = pipeline.draw(negative_prompt="red")[0].pixels
    edited = pipeline.draw(negative_prompt="[red:blue:2]")[0].pixels
    assert not np.array_equal(plain, edited)


def test_second_order_samplers_count_calls(pipeline: Pipeline) -> None:
    """Four steps of Heun are eight calls, the last of which is not made."""
    first = pipeline.draw(prompt="a cat", sampler="Heun")[0].pixels
    assert np.array_equal(pipeline.draw(prompt="a [cat:dog:6]", sampler="Heun")[0].pixels, first)
    changed = pipeline.draw(prompt="a [cat:dog:5]", sampler="Heun")[0].pixels
    assert not np.array_equal(changed, first)


def test_parts_mix_and_a_part_without_weight_has_no_effect(pipeline: Pipeline) -> None:
    plain = pipeline.draw(prompt="a cat")[0].pixels
    mixed = pipeline.draw(prompt="a cat AND a dog")[0].pixels
    without = pipeline.draw(prompt="a cat AND a dog :0")[0].pixels
    apart = pipeline.draw(prompt="a cat AND a dog", settings={"batch_cond_uncond": False})[0]
    assert not np.array_equal(plain, mixed)
    assert difference(plain, without) <= 1
    assert difference(mixed, apart.pixels) <= 1


def test_each_picture_of_a_batch_may_have_its_own_prompts(pipeline: Pipeline) -> None:
    prompts = ("a cat", "a dog AND a red car :0.7", "a [cat|dog]", "a cat")
    batch = pipeline.draw(
        prompts=prompts, negative_prompts=("", "red", "red", "blue"), batch_size=2, batch_count=2
    )
    assert [result.info.prompt for result in batch] == list(prompts)
    assert [result.info.negative_prompt for result in batch] == ["", "red", "red", "blue"]
    for result in batch:
        single = pipeline.draw(
            seed=result.info.seed,
            prompt=result.info.prompt,
            negative_prompt=result.info.negative_prompt,
        )
        assert difference(result.pixels, single[0].pixels) <= 1


def test_a_job_encodes_again_only_when_the_prompts_of_the_next_batch_differ(
    pipeline: Pipeline,
) -> None:
    pipeline.draw(prompts=("a", "a", "b"), batch_count=3, steps=1)
    stages = [event.stage for event in pipeline.events if isinstance(event, StageStarted)]
    assert stages.count("encode") == 2


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({"s_min_uncond": 5.0}, {}),
        ({}, {"s_min_uncond": 5.0}),
        ({}, {"s_min_uncond": 15.0, "s_min_uncond_all": True}),
        ({}, {"skip_early_cond": 0.5}),
    ],
)
def test_skipping_the_negative_prompt_changes_the_picture(
    pipeline: Pipeline, values: dict[str, Any], settings: dict[str, Any]
) -> None:
    plain = pipeline.draw(negative_prompt="red")[0].pixels
    skipped = pipeline.draw(negative_prompt="red", settings=settings, **values)[0].pixels
    assert not np.array_equal(plain, skipped)


def test_a_request_may_turn_the_settings_skipping_off(pipeline: Pipeline) -> None:
    plain = pipeline.draw()[0].pixels
    asked = pipeline.draw(s_min_uncond=0.0, settings={"s_min_uncond": 5.0})[0].pixels
    assert np.array_equal(plain, asked)


def test_encoded_prompts_are_forgotten_where_the_setting_says_so(pipeline: Pipeline) -> None:
    text = pipeline.parts.provider.get("").text
    original, encoded = text.encode, []
    text.encode = lambda *args, **more: encoded.append("again") or original(*args, **more)
    try:
        for kept, expected in ((True, 2), (True, 2), (False, 4), (False, 6)):
            pipeline.draw(steps=1, settings={"persistent_cond_cache": kept})
            assert len(encoded) == expected
    finally:
        del text.encode


def test_clip_skip_and_emphasis_settings_act(pipeline: Pipeline) -> None:
    plain = pipeline.draw(prompt="a (red:1.5) cat")[0].pixels
    for settings in ({"CLIP_stop_at_last_layers": 2}, {"emphasis": "No norm"}):
        assert not np.array_equal(
            plain, pipeline.draw(prompt="a (red:1.5) cat", settings=settings)[0].pixels
        )


def test_events_tell_the_story_in_order(pipeline: Pipeline) -> None:
    pipeline.draw(batch_count=2, steps=3)
    stages = [event.stage for event in pipeline.events if isinstance(event, StageStarted)]
    steps = [(event.batch, event.step) for event in pipeline.events if isinstance(event, StepDone)]
    assert stages == ["load", "encode", "denoise", "decode", "denoise", "decode"]
    assert steps == [(batch, step) for batch in (0, 1) for step in (1, 2, 3)]
    assert any(isinstance(event, PreviewReady) for event in pipeline.events)


def test_previews_can_be_turned_off(pipeline: Pipeline) -> None:
    pipeline.draw(settings={"live_previews_enable": False})
    assert not any(isinstance(event, PreviewReady) for event in pipeline.events)


def test_cancel_stops_after_the_running_step_and_still_shows_what_there_is(
    pipeline: Pipeline,
) -> None:
    def cancel_at_second_step(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            pipeline.control.cancel()

    pipeline.on_event = cancel_at_second_step
    run = pipeline.start(steps=10, batch_count=3)
    partial = next(run)
    assert not partial.is_complete
    with pytest.raises(Cancelled):
        next(run)
    assert sum(isinstance(event, StepDone) for event in pipeline.events) == 2


def test_skip_ends_the_batch_and_the_next_one_runs_whole(pipeline: Pipeline) -> None:
    def skip_first(event: Event) -> None:
        if isinstance(event, StepDone) and (event.batch, event.step) == (0, 1):
            pipeline.control.skip()

    pipeline.on_event = skip_first
    results = pipeline.draw(steps=5, batch_count=2)
    assert [result.is_complete for result in results] == [False, True]
    pipeline.on_event = lambda event: None
    assert np.array_equal(results[1].pixels, pipeline.draw(steps=5, seed=2)[0].pixels)


def test_a_repeated_prompt_is_not_encoded_again(pipeline: Pipeline) -> None:
    pipeline.draw(prompt="a red cat")
    encoded: list[str] = []
    text = pipeline.parts.provider.get("").text
    original = text.encode
    text.encode = lambda *args, **more: encoded.append("again") or original(*args, **more)
    try:
        pipeline.draw(prompt="a red cat", seed=9)
        assert encoded == []
        pipeline.draw(prompt="a blue cat")
        assert encoded
    finally:
        del text.encode


def test_a_variation_lies_between_two_seeds(pipeline: Pipeline) -> None:
    def draw(**values: Any) -> np.ndarray:
        return pipeline.draw(sampler="Euler", **values)[0].pixels

    start, end = draw(seed=3), draw(seed=4)
    none = draw(seed=3, subseed=4, subseed_strength=0.0)
    full = draw(seed=3, subseed=4, subseed_strength=1.0)
    some = draw(seed=3, subseed=4, subseed_strength=0.2)

    assert np.array_equal(none, start)
    assert difference(full, end) <= 1
    assert not np.array_equal(some, start)
    assert not np.array_equal(some, end)


@pytest.mark.parametrize("mode", ["normal", "medvram", "lowvram"])
def test_memory_modes_do_not_change_the_picture(
    pipeline: Pipeline, make_pipeline: Callable[[Device], Pipeline], mode: str
) -> None:
    expected = pipeline.draw()[0].pixels
    device = SimulatedDevice(256 * MIB)
    placed = make_pipeline(device)

    assert np.array_equal(placed.draw(settings={"memory_mode": mode})[0].pixels, expected)
    assert device.uploaded_bytes > 0
    placed.parts.provider.unload()
    assert device.own_bytes() == 0


def test_a_card_that_holds_one_component_at_a_time_is_enough(
    pipeline: Pipeline, make_pipeline: Callable[[Device], Pipeline]
) -> None:
    components = pipeline.parts.provider.get("").components.values()
    largest = max(component.total_bytes for component in components)
    assert largest < sum(component.total_bytes for component in components)
    device = SimulatedDevice(largest)
    placed = make_pipeline(device)

    assert np.array_equal(placed.draw()[0].pixels, pipeline.draw()[0].pixels)
    assert device.peak_bytes <= largest
