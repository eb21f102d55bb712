"""Resize modes and upscalers: sizes, proportions, edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdforge.core.errors import UnknownName
from sdforge.postprocess.resizing import resized
from sdforge.postprocess.upscalers import UPSCALERS, Upscaler, enlarged, run_upscaler, upscaler_name

SIDES = st.integers(1, 70)


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 3), st.sampled_from(["RGB", "L"]))
def test_every_mode_gives_the_size_asked_for(
    width: int, height: int, to_width: int, to_height: int, mode: int, colours: str
) -> None:
    image = Image.new(colours, (width, height))
    assert resized(image, mode, to_width, to_height).size == (to_width, to_height)


def colours_of(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(map(int, colour)) for colour in np.asarray(image).reshape(-1, 3)}


def stripes() -> Image.Image:
    """Red, green and blue thirds from left to right."""
    image = Image.new("RGB", (60, 20), (0, 255, 0))
    image.paste((255, 0, 0), (0, 0, 20, 20))
    image.paste((0, 0, 255), (40, 0, 60, 20))
    return image


def test_cropping_keeps_the_middle_and_proportions() -> None:
    assert colours_of(resized(stripes(), 1, 20, 20)) == {(0, 255, 0)}


def test_filling_keeps_all_and_draws_the_outermost_rows_out() -> None:
    pixels = np.asarray(resized(stripes(), 2, 60, 50))
    assert np.array_equal(pixels[15:35], np.asarray(stripes()))
    assert (pixels[:15] == pixels[15]).all()
    assert (pixels[35:] == pixels[34]).all()


def test_stretching_keeps_all() -> None:
    pixels = np.asarray(resized(stripes(), 0, 30, 30))
    assert [pixels[15, x].argmax() for x in (3, 15, 27)] == [0, 1, 2]


def test_nearest_makes_no_new_colours_and_lanczos_does() -> None:
    kinds = {
        name: len(colours_of(enlarged(stripes(), 90, 30, UPSCALERS.get(name))))
        for name in ("Nearest", "Lanczos", "None")
    }
    assert kinds["Nearest"] == 3
    assert kinds["Lanczos"] == kinds["None"] > 3


def test_names_are_found_in_any_case_and_unknown_ones_offer_what_is_close() -> None:
    assert upscaler_name("latent (BICUBIC)", "hr_upscaler") == "Latent (bicubic)"
    assert upscaler_name("lanczos", "hr_upscaler") == "Lanczos"
    with pytest.raises(UnknownName, match="Latent") as caught:
        upscaler_name("Latnt", "hr_upscaler")
    assert caught.value.field == "hr_upscaler"


class Models:
    """One upscaler file."""

    def names(self) -> list[str]:
        return ["4x-Sharp"]

    def canonical(self, name: str) -> str | None:
        return "4x-Sharp" if name.casefold() == "4x-sharp" else None


def test_models_are_named_beside_those_that_need_none() -> None:
    assert upscaler_name("4X-sharp", "hr_upscaler", Models()) == "4x-Sharp"
    assert upscaler_name("nearest", "hr_upscaler", Models()) == "Nearest"
    with pytest.raises(UnknownName, match="4x-Sharp"):
        upscaler_name("4x-Sharpe", "hr_upscaler", Models())


@pytest.mark.parametrize(
    ("scale", "wanted", "runs"), [(2, 60, 1), (2, 61, 2), (2, 1000, 3), (1, 60, 1), (4, 31, 1)]
)
def test_a_model_runs_until_the_size_is_reached_and_three_times_at_most(
    scale: int, wanted: int, runs: int
) -> None:
    seen: list[tuple[int, int]] = []

    def twice(image: Image.Image, factor: float) -> Image.Image:
        seen.append(image.size)
        return image.resize((image.width * scale, image.height * scale))

    upscaler = Upscaler("x", twice, scale)
    image = Image.new("RGB", (30, 30))
    run_upscaler(image, wanted, wanted, upscaler)
    assert len(seen) == runs
    assert enlarged(image, wanted, wanted, upscaler).size == (wanted, wanted)


def test_a_model_does_not_run_where_the_picture_shrinks() -> None:
    def never(image: Image.Image, factor: float) -> Image.Image:
        raise AssertionError

    assert enlarged(stripes(), 10, 10, Upscaler("x", never, 4)).size == (10, 10)


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1)])
@pytest.mark.parametrize("mode", range(4))
def test_a_line_of_pixels_is_never_enlarged_in_its_own_proportions(
    size: tuple[int, int], mode: int
) -> None:
    """64 times as wide it would be 64 million long: what is made on the way stays near the size."""
    made: list[int] = []

    def notes(image: Image.Image, factor: float) -> Image.Image:
        made.append(round(image.width * factor) * round(image.height * factor))
        return image

    image = Image.new("RGB", size, "teal")
    assert resized(image, mode, 64, 64, Upscaler("notes", notes)).size == (64, 64)
    assert max(made, default=0) <= 16 * 16 * 64 * 64
