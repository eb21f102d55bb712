"""A face's place: found from its points, cut out upright, laid back without an edge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdforge.postprocess.faces import _PLACES, Place


def points_of(scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    turn = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return _PLACES @ turn.T + shift


@settings(deadline=None)
@given(
    scale=st.floats(0.05, 8),
    angle=st.floats(-math.pi, math.pi),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    side=st.sampled_from([64, 128, 512]),
)
def test_a_turned_and_stretched_face_is_found_again(
    scale: float, angle: float, shift: tuple[float, float], side: int
) -> None:
    place = Place.of(points_of(scale, angle, shift), side)
    upright = np.column_stack([_PLACES * side / 512, np.ones(5)])
    assert np.allclose(upright @ place.matrix.T, points_of(scale, angle, shift), atol=1e-6)
    assert math.isclose(place.scale, scale * 512 / side, rel_tol=1e-6)


def smooth(width: int, height: int) -> Image.Image:
    across = np.linspace(20, 230, width)[None, :].repeat(height, 0)
    down = np.linspace(200, 40, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([across, down, (across + down) / 2], -1).astype(np.uint8))


@pytest.mark.parametrize("scale", [0.1, 0.4, 1.5])
@pytest.mark.parametrize("angle", [0.0, 0.6, -2.0])
def test_what_was_cut_out_fits_back_in(scale: float, angle: float) -> None:
    picture = smooth(400, 300)
    middle = np.array([200.0, 150.0])
    points = points_of(scale / 4, angle, (0, 0))
    place = Place.of(points - points.mean(0) + middle, 128)
    back = place.put_back(picture, place.cut_out(picture))
    difference = np.abs(np.asarray(back).astype(int) - np.asarray(picture))
    assert difference.max() <= 3
    # A face of another colour is laid where it belongs, and nowhere else.
    white = np.asarray(place.put_back(picture, Image.new("RGB", (128, 128), "white")))
    assert tuple(white[150, 200]) == (255, 255, 255)
    changed = (white != np.asarray(picture)).any(2)
    assert changed[:4].sum() == 0
    assert changed.sum() <= (128 * place.scale + 4) ** 2


def test_a_face_beyond_the_edge_leaves_the_picture_alone() -> None:
    picture = smooth(50, 40)
    place = Place.of(points_of(0.1, 0, (900, 900)), 64)
    assert place.put_back(picture, Image.new("RGB", (64, 64))) is picture
    assert np.asarray(place.cut_out(picture))[0, 0].tolist() == [132, 133, 135]


def test_a_face_of_few_pixels_is_not_worth_it() -> None:
    assert Place.of(points_of(0.05, 0, (0, 0)), 64).is_usable
    assert not Place.of(points_of(0.03, 0, (0, 0)), 64).is_usable
