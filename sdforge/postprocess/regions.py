"""From what a detector found in a picture to the masks that are drawn again.

Rules, their order and what numbers mean are ADetailer's. Masks are of mode L, 255 where to draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw

from sdforge.core.detail import BY_CONFIDENCE, MERGES, ORDERS, Detail, Detection

Flags = npt.NDArray[np.bool_]

_COLOURS = ("#ff3838", "#48f90a", "#00c2ff", "#ff9d97", "#ffb21d", "#8438ff")


def chosen(
    found: Sequence[Detection], size: tuple[int, int], detail: Detail, order: str = ORDERS[0]
) -> list[Detection]:
    """Return the detections to draw again in a picture of (width, height) pixels, in order.

    Args:
        found: surest first.
        size: of the picture.
        detail: which are too small, too large or too many.
        order: one of `ORDERS`; the first leaves them as they come.
    """
    whole = size[0] * size[1]
    kept = [one for one in found if detail.least_share <= one.area / whole <= detail.most_share]
    if detail.most:
        is_surest = detail.most_by == BY_CONFIDENCE
        kept.sort(key=lambda one: one.score if is_surest else one.area, reverse=True)
        kept = kept[: detail.most]
    if order == ORDERS[1]:
        kept.sort(key=lambda one: one.box[0])
    elif order == ORDERS[2]:
        kept.sort(key=lambda one: _off_centre(one, size))
    elif order == ORDERS[3]:
        kept.sort(key=lambda one: one.area, reverse=True)
    return kept


def masks_of(
    found: Sequence[Detection], size: tuple[int, int], detail: Detail
) -> list[Image.Image]:
    """Return the masks of detections: moved, grown or shrunk, merged; empty ones are left out."""
    masks = [_mask(one, size) for one in found]
    if detail.right or detail.up:
        # What leaves on one side comes back on the other (ADetailer).
        masks = [ImageChops.offset(mask, detail.right, -detail.up) for mask in masks]
    masks = [mask for mask in (grown(one, detail.dilate) for one in masks) if mask.getbbox()]
    if detail.merge == MERGES[0] or not masks:
        return masks
    merged = masks[0]
    for mask in masks[1:]:
        merged = ImageChops.lighter(merged, mask)
    return [merged if detail.merge == MERGES[1] else ImageChops.invert(merged)]


def grown(mask: Image.Image, by: int) -> Image.Image:
    """Return a mask of 0 and 255 dilated by a square of so many pixels, or eroded if negative."""
    if not by:
        return mask
    is_set = np.asarray(mask) > 127
    # A pixel that shrinks is one whose square touches what is outside.
    side = abs(by)
    made = _touched(is_set, side) if by > 0 else ~_touched(~is_set, side)
    return Image.fromarray(made.astype(np.uint8) * 255)


def shown(picture: Image.Image, found: Sequence[Detection]) -> Image.Image:
    """Return a picture with the boxes and masks of what was found, and how sure each is."""
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    width = max(round(min(picture.size) / 256), 1)
    for number, one in enumerate(found):
        colour = _COLOURS[number % len(_COLOURS)]
        if one.mask is not None:
            tint = Image.blend(drawn, Image.new("RGB", drawn.size, colour), 0.4)
            drawn.paste(tint, mask=one.mask)
        pen.rectangle(one.box, outline=colour, width=width)
        pen.text((one.box[0] + width, one.box[1] + width), f"{one.score:.2f}", fill=colour)
    return drawn


def _mask(one: Detection, size: tuple[int, int]) -> Image.Image:
    if one.mask is not None:
        return one.mask
    mask = Image.new("L", size)
    # Pillow's right and bottom belong to the rectangle.
    ImageDraw.Draw(mask).rectangle([int(side) for side in one.box], fill=255)
    return mask


def _off_centre(one: Detection, size: tuple[int, int]) -> float:
    left, top, right, bottom = one.box
    return math.dist(((left + right) / 2, (top + bottom) / 2), (size[0] / 2, size[1] / 2))


def _touched(is_set: Flags, side: int) -> Flags:
    """Return where a square of a side holds any pixel that is set; even ones reach left and up."""
    for axis in (0, 1):
        before = side // 2
        pads = [(0, 0), (0, 0)]
        pads[axis] = (before + 1, side - 1 - before)
        counts = np.cumsum(np.pad(is_set, pads), axis=axis, dtype=np.int32)
        length = is_set.shape[axis]
        upper = np.take(counts, range(side, side + length), axis=axis)
        lower = np.take(counts, range(length), axis=axis)
        is_set = upper > lower
    return is_set
