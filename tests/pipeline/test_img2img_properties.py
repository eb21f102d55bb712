"""Any picture, any mask, any mode: it never fails, and the size is what was asked for."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sdforge.postprocess.masks import blurred, mask_of
from tests.pipeline.conftest import Pipeline

SIDES = st.integers(1, 90)
MODES = st.sampled_from(["RGB", "RGBA", "P", "L", "LA", "1"])
SIZES = st.sampled_from([16, 24, 40])


@st.composite
def masks(draw: st.DrawFn) -> Image.Image | None:
    """No mask, or one that is empty, full, a single pixel or noise, of any mode and size."""
    kind = draw(st.sampled_from(["none", "empty", "full", "pixel", "noise"]))
    if kind == "none":
        return None
    width, height = draw(SIDES), draw(SIDES)
    pixels = np.zeros((height, width), np.uint8)
    if kind == "full":
        pixels[:] = 255
    elif kind == "pixel":
        pixels[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = 255
    elif kind == "noise":
        pixels = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (height, width))
    image = Image.fromarray(pixels.astype(np.uint8))
    mode = draw(MODES)
    if mode != "RGBA":
        return image.convert(mode)
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(pixels.astype(np.uint8)))
    return image


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    size=st.tuples(SIDES, SIDES),
    mode=MODES,
    mask=masks(),
    width=SIZES,
    height=SIZES,
    resize_mode=st.integers(0, 3),
    content=st.integers(0, 3),
    only_masked=st.booleans(),
    invert=st.booleans(),
    rounded=st.booleans(),
    padding=st.integers(0, 120),
    blur=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    strength=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_request_gives_a_picture_of_the_right_size(
    pipeline: Pipeline,
    size: tuple[int, int],
    mode: str,
    mask: Image.Image | None,
    width: int,
    height: int,
    resize_mode: int,
    content: int,
    only_masked: bool,
    invert: bool,
    rounded: bool,
    padding: int,
    blur: tuple[int, int],
    strength: float,
) -> None:
    picture = Image.effect_noise(size, 60).convert(mode)
    (result,) = pipeline.draw(
        init_images=(pipeline.put(picture),),
        mask=None if mask is None else pipeline.put(mask),
        width=width,
        height=height,
        resize_mode=resize_mode,
        masked_content=content,
        only_masked=only_masked,
        mask_invert=invert,
        mask_round=rounded,
        only_masked_padding=padding,
        mask_blur_x=blur[0],
        mask_blur_y=blur[1],
        denoising_strength=strength,
        steps=1,
        cfg_scale=1.0,
    )
    # Only what is drawn of a masked part goes back into the picture; an empty mask is none at all.
    goes_back = only_masked and mask is not None and not is_empty(mask, size, invert, rounded, blur)
    wanted = size if goes_back else (width, height)
    assert result.pixels.shape == (wanted[1], wanted[0], 3)


def is_empty(
    mask: Image.Image, size: tuple[int, int], invert: bool, rounded: bool, blur: tuple[int, int]
) -> bool:
    """Tell whether a mask of any kind marks nothing, once it is what A1111 makes of it."""
    given = mask.convert("RGBA") if mask.mode in ("P", "LA") else mask
    marks = mask_of(given, size, soft=not rounded)
    return blurred(ImageOps.invert(marks) if invert else marks, *blur).getbbox() is None
