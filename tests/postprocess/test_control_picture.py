"""Pictures become what ControlNets see: at the right size, by every preprocessor."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdforge.core.control import RESIZE_MODES, ControlUnit
from sdforge.core.errors import Cancelled, UnknownName
from sdforge.postprocess.control_picture import control_picture, detected, working_resolution
from sdforge.postprocess.preprocessors import PREPROCESSORS


def _unit(**values: object) -> ControlUnit:
    return ControlUnit(model="x", **values)  # type: ignore[arg-type]


def _noise(width: int = 80, height: int = 48) -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", PREPROCESSORS.names())
@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_every_preprocessor_gives_the_drawn_size_and_the_same_again(name: str, mode: str) -> None:
    unit = _unit(module=name, resize_mode=mode)
    first, again = (control_picture(unit, _noise(), None, 64, 96) for _ in range(2))
    assert first.pixels.shape == (96, 64, 3)
    assert first.pixels.dtype == np.float32
    assert first.shown.size == (64, 96)
    assert 0 <= first.pixels.min() <= first.pixels.max() <= 1
    assert np.array_equal(first.pixels, again.pixels)


@pytest.mark.parametrize(
    ("name", "parts"),
    [("canny", 3), ("scribble_xdog", 3), ("softedge_sobel", 4), ("recolor_luminance", 4),
     ("invert", 1)],
)  # fmt: skip
def test_what_takes_long_can_be_stopped_between_its_parts(name: str, parts: int) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == parts:
            raise Cancelled("told to stop")

    picture = _noise(1024, 700)
    with pytest.raises(Cancelled):
        control_picture(_unit(module=name, processor_res=700), picture, None, 64, 64, check)
    assert calls == parts


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pixel_perfect": True}, 300),
        ({"pixel_perfect": True, "resize_mode": "Resize and Fill"}, 200),
        ({"processor_res": 128}, 128),
        ({}, 300),
    ],
)
def test_the_working_size_follows_the_shorter_side(
    values: dict[str, object], expected: int
) -> None:
    assert working_resolution(_unit(**values), (600, 400), 300, 300) == expected


def test_without_a_wish_it_is_512_for_large_pictures() -> None:
    assert working_resolution(_unit(), (600, 400), 1024, 1024) == 512


def test_thresholds_count_within_limits_and_below_zero_mean_the_default() -> None:
    threshold = PREPROCESSORS.get("binary")
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2))
    whites = [
        int((np.asarray(detected(threshold, ramp, 64, a))[0, :, 0] == 255).sum())
        for a in (-1, 127, 200, 999)
    ]
    assert whites == [128, 128, 55, 0]


def test_inpainting_marks_what_is_masked_as_unknown() -> None:
    mask = Image.new("L", (80, 48), 0)
    mask.paste(255, (0, 0, 40, 48))
    made = control_picture(
        _unit(module="inpaint", resize_mode="Just Resize"), _noise(), mask, 80, 48
    )
    assert (made.pixels[:, :38] == -1).all()
    assert (made.pixels[:, 42:] >= 0).all()
    assert made.mask is None
    with pytest.raises(UnknownName, match="depth_midas"):
        control_picture(_unit(module="depth_midas"), _noise(), None, 64, 64)


def test_a_line_of_pixels_is_looked_at_smaller_than_it_was_asked_for() -> None:
    seen = detected(PREPROCESSORS.get("canny"), Image.new("RGB", (1, 50_000)), 512)
    assert seen.width * seen.height <= 8 * 512 * 512 + 50_000
    seen = detected(PREPROCESSORS.get("canny"), Image.new("RGB", (60, 20)), 64)
    assert seen.size == (192, 64)
