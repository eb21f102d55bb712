"""A1111's ways to bring a picture to another size; the fourth, by latents, is the pipeline's."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sdforge.postprocess.upscalers import PLAIN, Upscaler, enlarged

JUST_RESIZE, CROP_AND_RESIZE, RESIZE_AND_FILL, LATENT_UPSCALE = range(4)

# A covering picture is cut before it is resized where it would be so many times the result.
_MOST_CUT_OFF = 16
# Rows or columns left beside what is cut out, for the filters that resize it.
_MARGIN_PX = 4


def resized(
    image: Image.Image, mode: int, width: int, height: int, upscaler: Upscaler = PLAIN
) -> Image.Image:
    """Return a picture of exactly this size.

    Args:
        image: RGB, or L for masks.
        mode: 0 stretches, 1 covers the size and cuts off what is too much, 2 fits into it and
            draws the outermost rows or columns out to the edges.
        width: in pixels.
        height: in pixels.
        upscaler: what enlarges; masks are always resized plainly.
    """
    upscaler = PLAIN if image.mode == "L" else upscaler
    if mode == CROP_AND_RESIZE:
        covering = _fitted(image, width, height, cover=True)
        if covering[0] * covering[1] > _MOST_CUT_OFF * width * height:
            # A line of pixels would be as many times as long, and as large, as it is thin.
            image = _middle(image, width, height)
            covering = _fitted(image, width, height, cover=True)
        return _cropped(enlarged(image, *covering, upscaler), width, height)
    if mode == RESIZE_AND_FILL:
        inside = _fitted(image, width, height, cover=False)
        return _drawn_out(enlarged(image, *inside, upscaler), width, height)
    return enlarged(image, width, height, upscaler)


def _fitted(image: Image.Image, width: int, height: int, *, cover: bool) -> tuple[int, int]:
    """Return the size in the picture's own proportions that covers a size, or fits into it."""
    is_wider = width * image.height > height * image.width
    if is_wider == cover:
        return width, max(image.height * width // image.width, 1)
    return max(image.width * height // image.height, 1), height


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the part of a picture that is seen when it covers a size, and a little more."""
    seen_width = image.height * width // height + 2 * _MARGIN_PX
    seen_height = image.width * height // width + 2 * _MARGIN_PX
    left, top = max(image.width - seen_width, 0) // 2, max(image.height - seen_height, 0) // 2
    right, bottom = min(left + seen_width, image.width), min(top + seen_height, image.height)
    return image.crop((left, top, right, bottom))


def _cropped(image: Image.Image, width: int, height: int) -> Image.Image:
    """Cut out the middle; a side that rounding left a pixel short is drawn out."""
    left, top = max(image.width - width, 0) // 2, max(image.height - height, 0) // 2
    box = (left, top, left + min(width, image.width), top + min(height, image.height))
    return _drawn_out(image.crop(box), width, height)


def _drawn_out(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    left, top = (width - image.width) // 2, (height - image.height) // 2
    edges = [(top, height - image.height - top), (left, width - image.width - left)]
    pixels = np.asarray(image)
    colours = [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(np.pad(pixels, [*edges, *colours], mode="edge"))
