"""Resize modes and upscalers: sizes, proportions, edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdforge.core.errors import UnknownName
from sdforge.postprocess.resizing import resized
from sdforge.postprocess.upscalers import enlarged, upscaler_name

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
        name: len(colours_of(enlarged(stripes(), 90, 30, name)))
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
