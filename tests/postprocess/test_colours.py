"""Colours of another picture, lightness of one's own."""

from __future__ import annotations

import numpy as np

from sdforge.postprocess.colours import with_colours_of


def picture(tint: tuple[float, float, float], seed: int) -> np.ndarray:
    levels = np.random.default_rng(seed).integers(20, 200, (16, 16, 1))
    return (levels * np.array(tint)).clip(0, 255).astype(np.uint8)


def test_a_picture_keeps_itself_with_its_own_colours() -> None:
    own = picture((1.0, 0.7, 0.4), 1)
    assert np.abs(with_colours_of(own, own).astype(int) - own).max() <= 2


def test_hues_become_the_targets_and_lightness_stays() -> None:
    blue, red = picture((0.3, 0.5, 1.0), 1), picture((1.0, 0.5, 0.3), 2)
    made = with_colours_of(blue, red)
    means = made.reshape(-1, 3).mean(0)
    assert means[0] > means[2]
    weights = np.array([0.2126, 0.7152, 0.0722])
    before, after = blue @ weights, made @ weights
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


def test_sizes_may_differ_and_plain_pictures_are_no_problem() -> None:
    made = with_colours_of(picture((1, 1, 1), 3), np.full((3, 5, 3), 90, np.uint8))
    assert made.shape == (16, 16, 3)
