"""Hires fix, refiner and tiling: a second pass over the first's result, by any upscaler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdforge.core.errors import Cancelled, UnknownName
from sdforge.core.events import Event, ModelLoading, PreviewReady, StageStarted, StepDone
from sdforge.core.extension import Active, DenoiseContext, Extension, StepState, Values
from sdforge.core.result import ImageResult
from sdforge.core.settings import Settings
from sdforge.memory.simulated import SimulatedDevice
from sdforge.output.infotext import write_infotext
from sdforge.pipeline.generate import generate
from sdforge.postprocess.upscalers import LATENT_MODES, UPSCALERS
from tests.pipeline.conftest import Pipeline
from tests.tiny import make_checkpoint, tiny_server_parts

SHIPPED = "R-ESRGAN AnimeVideo"
HIRES: dict[str, Any] = {
    "hires": True, "hires_scale": 1.5, "denoising_strength": 0.5, "sampler": "Euler",
}  # fmt: skip


def small(pixels: np.ndarray, side: int = 8) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX), int)


def title(pipeline: Pipeline, name: str) -> str:
    return pipeline.parts.library.find(name).title


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline over two checkpoints, `a` and `b`."""
    folder = tmp_path_factory.mktemp("two")
    files = [
        make_checkpoint(folder / f"{name}.safetensors", seed=seed, dtype="F16")
        for seed, name in enumerate("ab")
    ]
    parts = tiny_server_parts(folder / "data", *files)
    pipeline = Pipeline(parts)
    # Titles change when hashes are known; the engine takes them all at one moment.
    for title in "ab":
        parts.library.ensure_hash(parts.library.find(title))
    yield pipeline
    parts.provider.unload()


@pytest.mark.parametrize("upscaler", [*LATENT_MODES.names(), *UPSCALERS.names(), SHIPPED])
def test_every_upscaler_gives_the_larger_size(pipeline: Pipeline, upscaler: str) -> None:
    (result,) = pipeline.draw(hires_upscaler=upscaler, steps=1, hires_steps=1, **HIRES)
    assert result.pixels.shape == (96, 96, 3)


def test_the_composition_is_the_first_passes(pipeline: Pipeline) -> None:
    values = HIRES | {"denoising_strength": 0.0}
    first, other = (pipeline.draw(seed=seed, sampler="Euler")[0].pixels for seed in (1, 2))
    large = pipeline.draw(hires_upscaler="Latent (nearest)", **values)[0].pixels
    near, far = (np.abs(small(large) - small(one)).mean() for one in (first, other))
    assert near < far


def test_more_strength_changes_more_and_the_second_prompt_counts(pipeline: Pipeline) -> None:
    none, some, more = (
        pipeline.draw(**(HIRES | {"denoising_strength": strength}))[0].pixels.astype(int)
        for strength in (0.0, 0.3, 0.9)
    )
    assert np.abs(some - none).mean() < np.abs(more - none).mean()
    plain = pipeline.draw(**HIRES)[0].pixels
    for own in (
        {"hires_prompt": "a dog"},
        {"hires_negative_prompt": "red"},
        {"hires_sampler": "DPM++ 2M", "hires_schedule": "Karras"},
        {"hires_cfg_scale": 1.0},
        {"hires_steps": 2},
    ):
        assert not np.array_equal(plain, pipeline.draw(**HIRES, **own)[0].pixels), own


def test_both_sides_asked_for_are_covered_and_cropped(pipeline: Pipeline) -> None:
    values = HIRES | {"hires_width": 120, "hires_height": 72}
    for upscaler in ("Latent", "Nearest"):
        (result,) = pipeline.draw(hires_upscaler=upscaler, steps=1, **values)
        assert result.pixels.shape == (72, 120, 3)


def test_progress_and_previews_go_on_through_both_passes(pipeline: Pipeline) -> None:
    pipeline.draw(steps=3, hires_steps=2, settings={"show_progress_every_n_steps": 1}, **HIRES)
    steps = [(event.step, event.steps) for event in pipeline.events if isinstance(event, StepDone)]
    stages = [event.stage for event in pipeline.events if isinstance(event, StageStarted)]
    assert steps == [(step, 5) for step in range(1, 6)]
    assert stages[-4:] == ["encode", "upscale", "denoise", "decode"]
    previews = [event for event in pipeline.events if isinstance(event, PreviewReady)]
    assert len(previews) >= 2


def test_cancelling_in_the_second_pass_stops_at_its_next_step(pipeline: Pipeline) -> None:
    def cancel_late(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 4:
            pipeline.control.cancel()

    pipeline.on_event = cancel_late
    run = pipeline.start(steps=3, hires_steps=5, **HIRES)
    partial = next(run)
    assert not partial.is_complete
    assert partial.pixels.shape == (96, 96, 3)
    with pytest.raises(Cancelled):
        next(run)
    assert sum(isinstance(event, StepDone) for event in pipeline.events) == 4


def test_a_cancelled_first_pass_has_no_second(pipeline: Pipeline) -> None:
    pipeline.on_event = lambda event: isinstance(event, StepDone) and pipeline.control.cancel()
    partial = next(pipeline.start(**HIRES))
    assert partial.pixels.shape == (64, 64, 3)


def test_the_first_pass_is_shown_too_where_the_setting_says_so(pipeline: Pipeline) -> None:
    before, after = pipeline.draw(settings={"save_images_before_highres_fix": True}, **HIRES)
    assert (before.suffix, after.suffix) == ("-before-highres-fix", "")
    assert np.array_equal(before.pixels, pipeline.draw(sampler="Euler")[0].pixels)
    assert np.array_equal(after.pixels, pipeline.draw(**HIRES)[0].pixels)


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_a_given_picture_is_enlarged_instead_of_drawn(pipeline: Pipeline, upscaler: str) -> None:
    values = HIRES | {"steps": 4, "hires_upscaler": upscaler, "batch_size": 2}
    made = {}
    for colour in ("red", "blue"):
        given = pipeline.put(Image.new("RGB", (50, 30), colour))
        made[colour] = [one.pixels for one in pipeline.draw(first_picture=given, **values)]
        steps = [event.step for event in pipeline.events if isinstance(event, StepDone)]
        assert steps == [1, 2, 3, 4]
        assert [pixels.shape for pixels in made[colour]] == [(96, 96, 3)] * 2
    assert not np.array_equal(made["red"][0], made["blue"][0])
    assert not np.array_equal(*made["red"])


class Passes(Extension):
    """Notes in which pass it is called."""

    name = "passes"
    label = "Passes"

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def on_step(self, context: DenoiseContext, step: StepState, values: Values) -> None:
        self.seen.append((context.pass_name, step.index))


def test_extensions_are_told_the_pass_and_the_step_in_it(two: Pipeline) -> None:
    noted = Passes()
    values = HIRES | {"steps": 2, "hires_steps": 3, "refiner": title(two, "b")}
    context = two.context(refiner_switch_at=0.5, **values)
    context.extensions = (Active(noted, {}),)
    list(generate(context))
    assert noted.seen == [("base", 0), ("base", 1), ("hires", 0), ("hires", 1), ("hires", 2)]


@pytest.mark.parametrize("by_steps", [True, False])
def test_the_refiner_changes_the_late_steps_only(
    two: Pipeline, monkeypatch: pytest.MonkeyPatch, by_steps: bool
) -> None:
    monkeypatch.setattr("sdforge.pipeline.preview.SECONDS_BETWEEN", 0.0)
    values = {"steps": 4, "sampler": "DPM++ 2M", "checkpoint": "a"}
    settings = {"refiner_switch_by_sample_steps": by_steps, "show_progress_every_n_steps": 1}

    def steps(**more: Any) -> list[bytes]:
        two.draw(settings=settings, **values, **more)
        return [event.image for event in two.events if isinstance(event, PreviewReady)]

    alone, refined = steps(), steps(refiner=title(two, "b"), refiner_switch_at=0.5)
    assert len(alone) == len(refined) == 4
    assert alone[0] == refined[0]
    assert alone[-1] != refined[-1]
    if by_steps:
        assert (alone[1] == refined[1], alone[2] == refined[2]) == (True, False)
    assert steps(refiner=title(two, "b"), refiner_switch_at=1.0) == alone
    assert steps(refiner=title(two, "a"), refiner_switch_at=0.5) == alone


@pytest.mark.parametrize(
    ("setting", "on_device"),
    [
        ("diffusers_move_base", {"b"}),
        ("diffusers_move_refiner", set()),
        ("diffusers_move_unet", set()),
        ("", {"a", "b"}),
    ],
)
def test_settings_take_a_model_off_the_device_that_is_not_in_use(
    tmp_path: Path, setting: str, on_device: set[str]
) -> None:
    files = [
        make_checkpoint(tmp_path / f"{name}.safetensors", seed=seed, dtype="F16")
        for seed, name in enumerate("ab")
    ]
    parts = tiny_server_parts(tmp_path / "data", *files, device=SimulatedDevice(2**30))
    pipeline = Pipeline(parts)
    context = pipeline.context(
        {setting: True} if setting else None,
        steps=2, sampler="Euler", checkpoint="a", refiner=title(pipeline, "b"),
        refiner_switch_at=0.5,
    )  # fmt: skip
    list(generate(context))
    rows = parts.memory.report().components
    assert {row.name for row in rows if row.role == "denoiser" and row.device_bytes} == on_device
    parts.provider.unload()


def test_every_batch_begins_with_the_base_again(two: Pipeline) -> None:
    values = {"steps": 4, "refiner": title(two, "b"), "refiner_switch_at": 0.5, "sampler": "Euler"}
    batches = two.draw(batch_count=2, **values)
    assert np.array_equal(batches[1].pixels, two.draw(seed=2, **values)[0].pixels)
    assert batches[1].info.model.name == "a"
    assert set(batches[1].info.others) == {title(two, name) for name in "ab"}


def test_the_second_pass_may_have_another_checkpoint(two: Pipeline) -> None:
    same = two.draw(**HIRES)[0].pixels
    other = two.draw(hires_checkpoint=title(two, "b"), **HIRES)[0].pixels
    assert other.shape == same.shape
    assert not np.array_equal(other, same)


@pytest.fixture(scope="module")
def other_vae(two: Pipeline) -> str:
    """Name of another VAE than that of the two checkpoints."""
    path = two.parts.paths.vaes[0] / "vae.safetensors"
    return make_checkpoint(path, seed=7, dtype="F16", prefix="first_stage_model.").name


def test_the_second_pass_may_have_another_vae(two: Pipeline, other_vae: str) -> None:
    """Enlarged latents never meet the first pass's VAE, enlarged pictures do."""

    def drawn(upscaler: str, *modules: str, **values: Any) -> np.ndarray:
        settings = {"forge_additional_modules": list(modules)}
        return two.draw(settings, hires_upscaler=upscaler, **HIRES, **values)[0].pixels

    same, changed = drawn("Latent"), drawn("Latent", hires_modules=(other_vae,))
    assert not np.array_equal(same, changed)
    assert np.array_equal(changed, drawn("Latent", other_vae))
    assert np.array_equal(same, drawn("Latent", other_vae, hires_modules=()))
    by_picture = [
        drawn("Nearest", **values) for values in ({}, {"hires_modules": (other_vae,)})
    ] + [drawn("Nearest", other_vae)]
    assert len({pixels.tobytes() for pixels in by_picture}) == 3


def test_another_vae_of_the_second_pass_is_told_and_the_first_keeps_its_own(
    two: Pipeline, other_vae: str
) -> None:
    settings = {"save_images_before_highres_fix": True}
    before, after = two.draw(settings, hires_modules=(other_vae,), **HIRES)
    assert np.array_equal(before.pixels, two.draw(sampler="Euler")[0].pixels)
    assert after.info.model.vae_name is None
    text = write_infotext(after.info, Settings())
    assert "Hires Module 1: vae, " in text and "VAE: " not in text
    # Every batch begins with the first pass's own again.
    values = HIRES | {"hires_modules": (other_vae,)}
    again = two.draw(batch_count=2, hires_upscaler="Nearest", **values)[1].pixels
    alone = two.draw(seed=2, hires_upscaler="Nearest", **values)[0].pixels
    assert np.array_equal(again, alone)


def seam(pixels: np.ndarray) -> float:
    """How much more the picture jumps across its left edge than inside."""
    values = pixels.astype(float)
    across = np.abs(values[:, 0] - values[:, -1]).mean()
    inside = np.abs(np.diff(values, axis=1)).mean()
    return float(across / inside)


def test_tiling_makes_edges_fit_and_leaves_the_networks_as_they_were(pipeline: Pipeline) -> None:
    plain = pipeline.draw(sampler="Euler")[0].pixels
    tiled = pipeline.draw(sampler="Euler", tiling=True)[0].pixels
    assert seam(tiled) < seam(plain)
    assert np.array_equal(
        tiled, pipeline.draw(sampler="Euler", settings={"tiling": True})[0].pixels
    )
    untiled = pipeline.draw(sampler="Euler", tiling=False, settings={"tiling": True})
    assert np.array_equal(plain, untiled[0].pixels)


def test_a_model_upscaler_keeps_the_composition_and_is_another_than_lanczos(
    pipeline: Pipeline,
) -> None:
    def drawn(upscaler: str, seed: int) -> np.ndarray:
        values = HIRES | {"denoising_strength": 0.0, "seed": seed}
        return pipeline.draw(hires_upscaler=upscaler, **values)[0].pixels.astype(int)

    made, plain, other = drawn(SHIPPED, 1), drawn("Lanczos", 1), drawn("Lanczos", 2)
    near, far = (np.abs(made - one).mean() for one in (plain, other))
    assert 0.5 < near < far


def test_upscaler_for_img2img_may_be_a_model(pipeline: Pipeline) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    start = pipeline.put(Image.fromarray(noise))
    made = {
        name: pipeline.draw(
            {"upscaler_for_img2img": name}, init_images=(start,), denoising_strength=0.0
        )[0].pixels
        for name in ("None", "", SHIPPED, "realesr-animevideov3")
    }
    np.testing.assert_array_equal(made["None"], made[""])
    np.testing.assert_array_equal(made[SHIPPED], made["realesr-animevideov3"])
    assert not np.array_equal(made["None"], made[SHIPPED])
    with pytest.raises(UnknownName, match="R-ESRGAN"):
        pipeline.draw({"upscaler_for_img2img": "R-ESRGAN 5x"}, init_images=(start,))


def test_a_cancelled_job_ends_between_the_tiles_of_an_upscaler(pipeline: Pipeline) -> None:
    context = pipeline.context(
        {"ESRGAN_tile": 32, "save_images_before_highres_fix": True},
        hires_upscaler=SHIPPED,
        **HIRES,
    )

    def on_event(event: Event) -> None:
        if event == StageStarted(stage="upscale"):
            pipeline.control.cancel()

    pipeline.on_event = on_event
    results = generate(context)
    first, reached = next(results), next(results)
    with pytest.raises(Cancelled):
        next(results)
    # Nothing came of the second pass; what the first had drawn is the result.
    assert pipeline.events[-2:] == [StageStarted(stage="upscale"), StageStarted(stage="decode")]
    assert first.suffix and not reached.suffix and not reached.is_complete
    assert np.array_equal(reached.pixels, first.pixels)
    assert sum(isinstance(event, StepDone) for event in pipeline.events) == 4


def test_a_job_cancelled_while_its_second_checkpoint_is_read_shows_nothing(two: Pipeline) -> None:
    """What drew the first pass has left by then."""
    two.parts.provider.unload()
    loads = 0

    def on_event(event: Event) -> None:
        nonlocal loads
        loads += event == StageStarted(stage="load")
        if isinstance(event, ModelLoading) and loads == 2:
            two.control.cancel()

    context = two.context(hires_checkpoint=title(two, "b"), **HIRES)
    two.on_event = on_event
    try:
        made: list[ImageResult] = []
        with pytest.raises(Cancelled):
            made.extend(generate(context))
    finally:
        two.on_event = lambda event: None
    assert made == []
    assert two.events[-1] == ModelLoading(name=title(two, "b"), fraction=0.0)
    # The next job finds all in order.
    assert len(two.draw(hires_checkpoint=title(two, "b"), **HIRES)) == 1


@pytest.mark.parametrize(
    "mode", ["lowvram", pytest.param("medvram", marks=pytest.mark.slow), "normal"]
)
def test_a_model_upscaler_runs_in_every_memory_mode_alike(
    make_pipeline: Any, pipeline: Pipeline, mode: str
) -> None:
    device = SimulatedDevice(2**28)
    own = make_pipeline(device, 2**18)
    settings = {"memory_mode": mode}
    expected = pipeline.draw(hires_upscaler=SHIPPED, **HIRES)[0].pixels.astype(int)
    made = own.draw(settings, hires_upscaler=SHIPPED, **HIRES)[0].pixels.astype(int)
    assert np.abs(expected - made).max() <= 1
    assert device.peak_bytes <= device.total_bytes
