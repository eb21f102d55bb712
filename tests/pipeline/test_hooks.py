"""Extensions in a real run: every hook is called, and every one that ships does what it is for."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from torch import Tensor

from sdforge.core.extension import (
    Active,
    DenoiseContext,
    Extension,
    Guided,
    StepState,
    Values,
    active_extensions,
)
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult
from sdforge.core.script import Script
from sdforge.core.settings import Settings
from sdforge.extensions.catalog import load_extensions
from sdforge.pipeline.generate import generate
from tests.pipeline.conftest import Pipeline

KNOWN = load_extensions()
# Strong enough to see on a network of random weights.
ON: dict[str, dict[str, Any]] = {
    "freeu": {"enabled": True, "b1": 1.6, "b2": 1.6, "s1": 0.5, "s2": 0.2},
    "kohya_hrfix": {"enabled": True, "block_number": 1, "end": 1.0},
    "pag": {"enabled": True, "scale": 20.0},
    "sag": {"enabled": True, "scale": 3.0, "threshold": 0.5},
    "dynamic_thresholding": {"enabled": True, "mimic_scale": 2.0, "threshold_percentile": 0.9},
    "cfg_rescale": {"amount": 0.9},
    "apg": {"enabled": True, "norm_threshold": 1.0},
    "cfg_zero": {"enabled": True, "zero_steps": 1},
    "perp_neg": {"enabled": True, "scale": 3.0},
    "token_merging": {"ratio": 0.5},
}


def draw(pipeline: Pipeline, active: tuple[Active, ...], **values: Any) -> list[ImageResult]:
    context = pipeline.context(**values)
    context.extensions = active
    return list(generate(context))


def on(*names: str) -> tuple[Active, ...]:
    return active_extensions(KNOWN, {name: ON[name] for name in names}, Settings())


def same(one: list[ImageResult], other: list[ImageResult]) -> bool:
    return all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))


REQUEST: dict[str, Any] = {"negative_prompt": "a dog", "cfg_scale": 12.0, "batch_size": 2}


def test_every_extension_that_ships_is_tried_here() -> None:
    # Scripts draw several times instead; tests/extensions has each of them. Soft inpainting wants a
    # mask: tests/pipeline/test_soft_inpainting.py, and details want a detector: test_detailing.py.
    known = {one.name for one in KNOWN if not isinstance(one, Script)}
    assert set(ON) == known - {"soft_inpainting", "adetailer"}


@pytest.mark.parametrize("name", ON)
def test_an_extension_changes_the_picture_and_can_be_repeated(
    pipeline: Pipeline, name: str
) -> None:
    plain = draw(pipeline, (), **REQUEST)
    changed = draw(pipeline, on(name), **REQUEST)
    assert not same(plain, changed)
    assert same(changed, draw(pipeline, on(name), **REQUEST))
    assert same(plain, draw(pipeline, (), **REQUEST))


@pytest.mark.parametrize("name", ON)
def test_each_picture_of_a_batch_is_the_one_it_would_be_alone(
    pipeline: Pipeline, name: str
) -> None:
    together = draw(pipeline, on(name), **REQUEST)
    alone = draw(pipeline, on(name), **REQUEST | {"batch_size": 1, "seed": 2})
    difference = together[1].pixels.astype(int) - alone[0].pixels.astype(int)
    assert np.abs(difference).max() <= 1


def test_all_of_them_together_run(pipeline: Pipeline) -> None:
    results = draw(pipeline, on(*ON), **REQUEST)
    assert set(results[0].info.extra) == {KNOWN.get(name).label for name in ON}


@pytest.mark.parametrize(
    "name", sorted(set(ON) - {"freeu", "kohya_hrfix", "pag", "sag", "token_merging"})
)
def test_without_guidance_there_is_nothing_to_combine(pipeline: Pipeline, name: str) -> None:
    values = REQUEST | {"cfg_scale": 1.0}
    assert same(draw(pipeline, on(name), **values), draw(pipeline, (), **values))


def test_an_extension_only_acts_between_its_start_and_end(pipeline: Pipeline) -> None:
    never = {"pag": ON["pag"] | {"start": 1.0, "end": 0.0}}
    active = active_extensions(KNOWN, never, Settings())
    assert same(draw(pipeline, active, **REQUEST), draw(pipeline, (), **REQUEST))


class Diary(Extension):
    """Notes each hook, and changes what it can."""

    name = "diary"
    label = "Diary"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_conditioning(self, context: DenoiseContext, conditioning: Any, values: Values) -> Any:
        self.seen.append("conditioning")
        return replace(conditioning, uncond=tuple(part for part in conditioning.parts[0]))

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        self.seen.append(f"denoiser of {len(context.sigmas) - 1} steps")
        return denoiser

    def on_step(self, context: DenoiseContext, step: StepState, values: Values) -> None:
        self.seen.append(f"step {step.index} at {context.fraction(step.sigma):.2f}")

    def on_latents(self, context: DenoiseContext, latents: Tensor, values: Values) -> Tensor:
        self.seen.append("latents")
        return latents

    def on_picture(
        self, request: GenerationRequest, pixels: npt.NDArray[np.uint8], values: Values
    ) -> npt.NDArray[np.uint8]:
        self.seen.append("picture")
        return pixels[::-1].copy()


def test_every_hook_of_the_pipeline_is_called_in_order(pipeline: Pipeline) -> None:
    diary = Diary()
    draw(pipeline, (Active(diary, {}),), steps=2, batch_size=2, batch_count=2)
    batch = [
        "conditioning", "denoiser of 2 steps", "step 0 at 0.00", "step 1 at 0.50", "latents",
        "picture", "picture",
    ]  # fmt: skip
    assert diary.seen == batch * 2


def test_what_a_hook_returns_is_what_counts(pipeline: Pipeline) -> None:
    turned = draw(pipeline, (Active(Diary(), {}),), steps=2, cfg_scale=5.0)
    # Its negative prompt is the prompt itself, so guidance does nothing.
    plain = draw(pipeline, (), steps=2, cfg_scale=1.0)
    upside = turned[0].pixels[::-1]
    assert np.abs(upside.astype(int) - plain[0].pixels.astype(int)).max() <= 2


class Grey(Extension):
    name = "grey"
    label = "Grey"

    def on_latents(self, context: DenoiseContext, latents: Tensor, values: Values) -> Tensor:
        return latents * 0


def test_latents_that_a_hook_returns_are_decoded(pipeline: Pipeline) -> None:
    first, second = (draw(pipeline, (Active(Grey(), {}),), seed=seed, steps=2) for seed in (1, 2))
    assert same(first, second)


class Counting(Extension):
    """Asks for the same guesses again and again."""

    name = "counting"
    label = "Counting"

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        from sdforge.extensions.wrapping import Adjusted

        calls: list[int] = values["calls"]
        context.network.register_forward_pre_hook(lambda *_: calls.append(1))

        def adjust(x: Tensor, sigma: float, guided: Tensor) -> Tensor:
            for _ in range(3):
                denoiser.guesses(x, sigma)
                denoiser(x, sigma)
            return guided

        return Adjusted(denoiser, adjust)


def test_the_network_is_asked_once_for_what_it_said_already(pipeline: Pipeline) -> None:
    calls: list[int] = []
    network = pipeline.parts.provider.get(pipeline.context().request.checkpoint)
    try:
        draw(pipeline, (Active(Counting(), {"calls": calls}),), steps=3, sampler="Euler")
    finally:
        network.components["denoiser"].module._forward_pre_hooks.clear()
    assert len(calls) == 3
