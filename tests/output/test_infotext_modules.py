"""`Module 1…n`: the files that a picture of Flux was made with, as Forge writes and reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sdforge.core.settings import Settings
from sdforge.output.infotext import parse_infotext, request_from_infotext
from tests.output.test_infotext import REQUEST, written

FILES = ("models/VAE/ae.safetensors", "C:\\x\\clip_l.safetensors", "t5-v1.1-xxl.Q8_0.gguf")
NAMES = ["ae", "clip_l", "t5-v1.1-xxl.Q8_0"]


def test_modules_are_written_by_their_names_after_the_version() -> None:
    text = written(REQUEST, Settings(forge_additional_modules=FILES))
    assert text.endswith(
        "Version: sdforge-0.1, Module 1: ae, Module 2: clip_l, Module 3: t5-v1.1-xxl.Q8_0"
    )
    assert "Module" not in written(REQUEST)


@pytest.mark.parametrize(
    ("current", "overrides"),
    [
        (None, NAMES),
        (Settings(), NAMES),
        (Settings(forge_additional_modules=FILES), None),
        (Settings(forge_additional_modules=("ae", "CLIP_L", "T5-v1.1-XXL.Q8_0.gguf")), None),
    ],
)
def test_modules_come_back_where_they_are_others(
    current: Settings | None, overrides: list[str] | None
) -> None:
    text = written(REQUEST, Settings(forge_additional_modules=FILES))
    request = request_from_infotext(parse_infotext(text), current)
    assert request.overrides.get("forge_additional_modules") == overrides


def test_a_picture_made_without_modules_asks_for_none() -> None:
    parsed = parse_infotext(written(REQUEST))
    assert "forge_additional_modules" not in request_from_infotext(parsed).overrides
    there = Settings(forge_additional_modules=FILES)
    assert request_from_infotext(parsed, there).overrides["forge_additional_modules"] == []


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (("ae.safetensors", "clip_l.gguf"), "Hires Module 1: ae, Hires Module 2: clip_l"),
        ((), "Hires Module 1: Built-in"),
        (None, ""),
    ],
)
def test_a_second_passes_own_modules_are_told(modules: tuple[str, ...] | None, said: str) -> None:
    request = replace(REQUEST, hires=True, denoising_strength=0.5, hires_modules=modules)
    text = written(request)
    assert said in text and ("Module" in text) == bool(said)
    again = request_from_infotext(parse_infotext(text))
    assert again.hires_modules == (modules and ("ae", "clip_l"))
    assert "forge_additional_modules" not in again.overrides


def test_forges_words_for_the_same_modules_are_nothing() -> None:
    text = "a\nSteps: 1, Sampler: Euler, Hires upscale: 2, Hires Module 1: Use same choices"
    assert request_from_infotext(parse_infotext(text)).hires_modules is None


def test_their_numbers_order_them() -> None:
    text = "a cat\nSteps: 1, Sampler: Euler, Seed: 1, Module 10: j, Module 2: b, Module 1: a"
    overrides = request_from_infotext(parse_infotext(text)).overrides
    assert overrides["forge_additional_modules"] == ["a", "b", "j"]
