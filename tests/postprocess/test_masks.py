"""Masks of every kind, the part around them, and putting things back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdforge.postprocess.masks import (
    Box,
    blurred,
    doubled,
    filled,
    laid_over,
    latent_mask,
    mask_of,
    masked_box,
)


def levels(mask: Image.Image) -> list[int]:
    return [int(level) for level in np.asarray(mask).ravel()]


def spot(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def test_brightness_counts_unless_the_picture_is_transparent() -> None:
    grey = Image.new("RGB", (4, 1))
    grey.putdata([(0, 0, 0), (128, 128, 128), (129, 129, 129), (255, 255, 255)])
    assert levels(mask_of(grey, (4, 1))) == [0, 0, 255, 255]
    assert levels(mask_of(grey, (4, 1), soft=True)) == [0, 128, 129, 255]
    clear = Image.new("RGBA", (4, 1))
    clear.putdata([(255, 255, 255, alpha) for alpha in (0, 128, 129, 255)])
    assert levels(mask_of(clear, (4, 1))) == [0, 0, 255, 255]
    opaque = Image.new("RGBA", (4, 1), (0, 0, 0, 255))
    assert mask_of(opaque, (4, 1)).getbbox() is None


def test_a_mask_of_another_size_is_brought_to_the_pictures() -> None:
    assert mask_of(spot((8, 8), (0, 0, 4, 8)), (64, 32)).getbbox() == (0, 0, 32, 32)


def test_blur_is_a_gaussian_along_each_axis_of_a1111s_width() -> None:
    mask = spot((101, 41), (50, 0, 101, 41))
    soft = np.asarray(blurred(mask, 4, 0)).astype(float)
    assert (soft == soft[0]).all()
    row = soft[0]
    assert (np.diff(row) >= 0).all()
    assert row[45] == pytest.approx(255 * 0.13, abs=4)
    # The kernel is 2 · int(2.5 · 4 + 0.5) + 1 wide and ends there.
    assert (row[39], row[60]) == (0, 255)
    assert row[40] > 0
    assert np.array_equal(np.asarray(blurred(mask, 0, 3)), np.asarray(mask))


SIDES = st.integers(1, 80)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 100), st.data())
def test_the_box_holds_the_mask_and_lies_in_the_picture(
    width: int, height: int, to_width: int, to_height: int, padding: int, data: st.DataObject
) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right = data.draw(st.integers(left + 1, width))
    bottom = data.draw(st.integers(top + 1, height))
    mask = spot((width, height), (left, top, right, bottom))
    box = masked_box(mask, padding, to_width, to_height)
    assert box is not None
    assert 0 <= box.left <= left and right <= box.right <= width
    assert 0 <= box.top <= top and bottom <= box.bottom <= height


def test_the_box_has_the_proportions_of_what_is_drawn_where_there_is_room() -> None:
    mask = spot((200, 200), (90, 95, 110, 105))
    assert masked_box(mask, 10, 64, 64) == Box(80, 80, 120, 120)
    assert masked_box(mask, 10, 64, 32) == Box(70, 85, 130, 115)
    assert masked_box(mask, 10, 64, 16) == Box(40, 85, 160, 115)
    corner = spot((200, 200), (0, 0, 40, 10))
    assert masked_box(corner, 0, 64, 64) == Box(0, 0, 40, 40)
    assert masked_box(Image.new("L", (9, 9)), 4, 64, 64) is None


def test_filling_takes_the_colours_around_and_leaves_the_rest() -> None:
    picture = Image.new("RGB", (64, 64), (200, 30, 30))
    picture.paste((0, 0, 255), (24, 24, 40, 40))
    made = np.asarray(filled(picture, spot((64, 64), (24, 24, 40, 40)))).astype(int)
    assert np.abs(made[32, 32] - (200, 30, 30)).max() < 25
    assert np.abs(made[2, 2] - (200, 30, 30)).max() <= 2
    everything = filled(picture, Image.new("L", (64, 64), 255))
    assert everything.size == (64, 64)


def test_latent_masks_are_rounded_or_not() -> None:
    half = spot((64, 64), (0, 0, 30, 64))
    hard, soft = (latent_mask(half, 8, 8, rounded=rounded) for rounded in (True, False))
    assert hard.shape == (8, 8)
    assert set(np.unique(hard)) == {0.0, 1.0}
    assert not set(np.unique(soft)) <= {0.0, 1.0}


def test_laying_over_mixes_by_the_mask_and_keeps_bits_where_it_is_black() -> None:
    rng = np.random.default_rng(1)
    drawn, source = rng.integers(0, 256, (2, 6, 3, 3), np.uint8)
    mask = Image.new("L", (3, 6))
    mask.putdata([0, 128, 255] * 6)
    made = laid_over(drawn, source, mask)
    assert np.array_equal(made[:, 0], source[:, 0])
    assert np.array_equal(made[:, 2], drawn[:, 2])
    middle = (drawn[:, 1].astype(int) + source[:, 1]) / 2
    assert np.abs(made[:, 1] - middle).max() <= 1
    assert levels(doubled(mask))[:3] == [0, 255, 255]


def test_a_small_mask_in_a_large_picture_is_blurred_as_any_other() -> None:
    large, small = spot((300, 200), (140, 90, 160, 110)), spot((80, 80), (30, 30, 50, 50))
    soft = np.asarray(blurred(large, 3, 5))
    assert np.array_equal(soft[60:140, 110:190], np.asarray(blurred(small, 3, 5)))
    assert soft.sum() == soft[60:140, 110:190].sum()
    assert blurred(Image.new("L", (1, 1), 255), 9, 9).getpixel((0, 0)) == 255
