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
# Rows that are computed with as real numbers at a time: of a whole large picture they take
# gigabytes.
_ROWS = 256
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
    levels = np.asarray(mask.crop(box))
    radius = _radius(blur_y)
    sources = np.pad(np.arange(len(levels)), radius, mode="reflect")
    result = mask.copy()
    for top in range(0, len(levels), _ROWS):
        rows = levels[sources[top : top + _ROWS + 2 * radius]].astype(np.float32)
        if blur_x > 0:
            rows = _blurred_across(rows, blur_x)
        if blur_y > 0:
            rows = _weighted(rows, blur_y)
        part = Image.fromarray(np.rint(rows).clip(0, 255).astype(np.uint8))
        result.paste(part, (box[0], box[1] + top))
    return result


def _radius(deviation: float) -> int:
    return int(2.5 * deviation + 0.5)


def _blurred_across(levels: npt.NDArray[np.float32], deviation: float) -> npt.NDArray[np.float32]:
    radius = _radius(deviation)
    padded = np.pad(levels, ((0, 0), (radius, radius)), mode="reflect")
    return _weighted(padded.T, deviation).T


def _weighted(rows: npt.NDArray[np.float32], deviation: float) -> npt.NDArray[np.float32]:
    """Return Gaussian sums of neighbouring rows: as many as there are, less twice the radius."""
    radius = _radius(deviation)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * deviation**2))
    weights /= weights.sum()
    count = len(rows) - 2 * radius
    # In the order in memory of what is added up.
    result = np.zeros_like(rows[:count])
    for offset, weight in enumerate(weights.astype(np.float32)):
        result += weight * rows[offset : offset + count]
    return result


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
    shares = np.asarray(mask)
    for start in range(top, bottom, _ROWS):
        part = (slice(start, min(start + _ROWS, bottom)), slice(left, right))
        share = shares[part].astype(np.float32)[..., None] / 255
        mixed = source[part] + (drawn[part].astype(np.float32) - source[part]) * share
        result[part] = np.rint(mixed).clip(0, 255).astype(np.uint8)
    return result


def doubled(mask: Image.Image) -> Image.Image:
    """Return the mask twice as strong: A1111's for laying whole pictures over each other."""
    return mask.point(lambda level: min(level * 2, 255))
