"""The judge must know a subject wherever it stands, and must not see one where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.train_demo import data
from scripts.train_demo.gallery import Gallery, border_colour, cut_out
from scripts.train_demo.subjects import BACKGROUNDS
from scripts.train_demo.vae_score import psnr


def drawn(kind: str, colour: tuple[int, int, int]) -> np.ndarray:
    """A disc, a bar or a triangle that leans to the left, inside the usual margin."""
    y, x = np.mgrid[:128, :128]
    shape = {
        "disc": (x - 64) ** 2 + (y - 64) ** 2 < 50**2,
        "bar": (abs(y - 64) < 15) & (abs(x - 64) < 54),
        "wedge": (y > 16) & (y < 112) & (x > 16) & (x < y),
    }[kind]
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[shape] = (*colour, 255)
    return rgba


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    red, blue = (200, 30, 30), (30, 30, 200)
    kinds = [("disc", red), ("disc", blue), ("bar", red), ("bar", blue), ("wedge", red)]
    rgba = np.stack([drawn(*kind) for kind in kinds])
    names = ["red disc", "blue disc", "red bar", "blue bar", "wedge"]
    return Gallery(data.Pictures(rgba, names, ["noto"] * 5))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.75])
def test_a_moved_mirrored_smaller_subject_is_still_known(
    gallery: Gallery, scale: float, flip: bool
) -> None:
    for index, name in enumerate(gallery.pictures.subjects):
        moved = data.vary(gallery.pictures.rgba[index], scale, 0.1, 0.9, flip)
        picture = data.composite(moved, BACKGROUNDS["green"])
        assert gallery.ranking(picture, "green")[0] == name


def test_another_colour_is_another_subject(gallery: Gallery) -> None:
    picture = data.composite(drawn("disc", (40, 40, 190)), BACKGROUNDS["white"])
    assert gallery.ranking(picture, "white")[:2] == ["blue disc", "red disc"]


def test_an_empty_picture_is_cut_out_whole() -> None:
    empty = np.zeros((128, 128, 3), np.float32) + np.asarray(BACKGROUNDS["blue"]) / 255
    assert np.allclose(cut_out(empty, "blue"), empty[:96, :96], atol=1 / 128)


@pytest.mark.parametrize("name", list(BACKGROUNDS))
def test_the_border_names_the_background(name: str) -> None:
    picture = data.composite(drawn("disc", (10, 10, 10)), BACKGROUNDS[name])
    assert border_colour(picture) == name


def test_psnr_of_a_tenth_is_twenty_decibels() -> None:
    first = np.zeros((2, 4, 4, 3))
    assert psnr(first, first + 0.1) == pytest.approx(20)
    mask = np.zeros((2, 4, 4), bool)
    mask[0, 0] = True
    second = first.copy()
    second[0, 0] = 0.1
    assert psnr(first, second, mask) == pytest.approx(20)
    assert psnr(first, second) > 25


def test_moving_keeps_the_subject_inside_the_margin() -> None:
    moved = data.vary(drawn("bar", (1, 2, 3)), 0.8, 1.0, 0.0, flip=True)
    inside = moved[data.MARGIN : -data.MARGIN, data.MARGIN : -data.MARGIN, 3]
    assert inside.sum() == moved[..., 3].sum() > 0
