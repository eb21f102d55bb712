"""What shall be repainted: masks from pictures, their blur, the part around them, and the way back.

White (255) is repainted. Sizes of kernels, thresholds and the order of things are A1111's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter

Pixels = npt.NDArray[np.uint8]

_OPAQUE = 255
_THRESHOLD = 128
# Blurs of falling radius laid over each other, and how often each: A1111's fill.
_FILL_BLURS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels; right and bottom are outside of it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """As Pillow wants it."""
        return self.left, self.top, self.right, self.bottom

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.right - self.left, self.bottom - self.top


def mask_of(picture: Image.Image, size: tuple[int, int], *, soft: bool = False) -> Image.Image:
    """Return a mask (mode L) of a size from any picture.

    Its transparency counts if it has any, else its brightness. `soft` keeps grey, otherwise more
    than half is white.
    """
    mask = picture.convert("L")
    if picture.mode == "RGBA":
        alpha = picture.getchannel("A")
        mask = alpha if int(np.asarray(alpha).min()) < _OPAQUE else mask
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    return mask if soft else mask.point(lambda level: 255 if level > _THRESHOLD else 0)


def blurred(mask: Image.Image, blur_x: float, blur_y: float) -> Image.Image:
    """Return the mask with a Gaussian blur of these deviations, in pixels, along each axis."""
    found = mask.getbbox()
    if found is None or not (blur_x or blur_y):
        return mask
    # Large pictures with small masks are usual; nothing changes further out than two radii.
    across, down = 2 * _radius(blur_x), 2 * _radius(blur_y)
    box = (
        max(found[0] - across, 0),
        max(found[1] - down, 0),
        min(found[2] + across, mask.width),
        min(found[3] + down, mask.height),
    )
    levels = np.asarray(mask.crop(box)).astype(np.float32)
    for axis, deviation in ((1, blur_x), (0, blur_y)):
        if deviation > 0:
            levels = _blurred_along(levels, axis, deviation)
    result = mask.copy()
    result.paste(Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8)), box)
    return result


def _radius(deviation: float) -> int:
    return int(2.5 * deviation + 0.5)


def _blurred_along(
    levels: npt.NDArray[np.float32], axis: int, deviation: float
) -> npt.NDArray[np.float32]:
    radius = _radius(deviation)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * deviation**2))
    weights /= weights.sum()
    rows = np.moveaxis(levels, axis, 0)
    padded = np.pad(rows, ((radius, radius), (0, 0)), mode="reflect")
    result = np.zeros_like(rows)
    for offset, weight in enumerate(weights.astype(np.float32)):
        result += weight * padded[offset : offset + len(rows)]
    return np.moveaxis(result, 0, axis)


def masked_box(mask: Image.Image, padding: int, width: int, height: int) -> Box | None:
    """Return the part around a mask, in the proportions of a size where the picture has room.

    Args:
        mask: of the picture's size.
        padding: pixels of surroundings.
        width: of what will be drawn of it.
        height: of what will be drawn of it.

    Returns:
        None where nothing is masked.
    """
    found = mask.getbbox()
    if found is None:
        return None
    left, right = max(found[0] - padding, 0), min(found[2] + padding, mask.width)
    top, bottom = max(found[1] - padding, 0), min(found[3] + padding, mask.height)
    if (right - left) * height > (bottom - top) * width:
        wanted = int((right - left) * height / width)
        top, bottom = _stretched(top, bottom, wanted, mask.height)
    else:
        wanted = int((bottom - top) * width / height)
        left, right = _stretched(left, right, wanted, mask.width)
    return Box(left, top, right, bottom)


def _stretched(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """Return a stretch of `length` around another, moved and cut to lie between 0 and `limit`."""
    more = max(length - (end - start), 0)
    start, end = start - more // 2, end + more - more // 2
    if end > limit:
        start, end = start - (end - limit), limit
    if start < 0:
        start, end = 0, min(end - start, limit)
    return start, end


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Return the picture with its masked part filled by the colours around it, spread by blurs."""
    kept = image.convert("RGBA")
    kept.putalpha(ImageChops.invert(mask))
    # Premultiplied, so that what is masked has no weight in the blur.
    kept = kept.convert("RGBa")
    result = Image.new("RGBA", image.size)
    for radius, repeats in _FILL_BLURS:
        spread = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(repeats):
            result.alpha_composite(spread)
    return result.convert("RGB")


def latent_mask(
    mask: Image.Image, width: int, height: int, *, rounded: bool
) -> npt.NDArray[np.float32]:
    """Return how far each latent is repainted, (height, width), 0 to 1; `rounded`: 0 or 1."""
    small = mask.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    levels = np.asarray(small)[..., 0].astype(np.float32) / np.float32(255)
    return np.asarray(np.around(levels) if rounded else levels, np.float32)


def laid_over(drawn: Pixels, source: Pixels, mask: Image.Image) -> Pixels:
    """Return `source` with `drawn` where the mask is; where it is black, every bit is the source's.

    All three have the same size.
    """
    result = source.copy()
    found = mask.getbbox()
    if found is None:
        return result
    left, top, right, bottom = found
    part = (slice(top, bottom), slice(left, right))
    share = np.asarray(mask)[part].astype(np.float32)[..., None] / 255
    mixed = source[part] + (drawn[part].astype(np.float32) - source[part]) * share
    result[part] = np.rint(mixed).clip(0, 255).astype(np.uint8)
    return result


def doubled(mask: Image.Image) -> Image.Image:
    """Return the mask twice as strong: A1111's for laying whole pictures over each other."""
    return mask.point(lambda level: min(level * 2, 255))
