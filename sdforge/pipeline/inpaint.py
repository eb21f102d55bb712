"""What a mask means for one picture: which part is drawn, what it starts as, how it comes back.

Sizes are in pixels and masks Pillow pictures of mode L, white where to repaint. The arithmetic of
masks is `postprocess/masks.py`'s, latents are `img2img.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.postprocess.colours import with_colours_of
from sdforge.postprocess.masks import (
    Box,
    blurred,
    doubled,
    filled,
    laid_over,
    mask_of,
    masked_box,
)
from sdforge.postprocess.resizing import (
    CROP_AND_RESIZE,
    JUST_RESIZE,
    LATENT_UPSCALE,
    RESIZE_AND_FILL,
    resized,
)
from sdforge.postprocess.upscalers import PLAIN, Upscaler

Pixels = npt.NDArray[np.uint8]
ORIGINAL_CONTENT = 1
# Takes the steps of latents out of a mask that was made from them (A1111).
_SHOWN_BLUR = 4
# Pictures of more pixels than so many times what is drawn are reduced before they are encoded, as
# their latents would be afterwards.
_MOST_ENCODED = 16


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture ready to be encoded, and the way from what is drawn to the result.

    Attributes:
        image: RGB; of the size to draw, unless its latents are to be enlarged.
        mask: of the size to draw; None where everything is repainted.
        source: what the result is laid over; None where the drawn picture is the result.
        source_mask: of the source's size.
        box: the part of the source that is drawn; None for all of it.
        colours: a picture whose colours the result shall have.
    """

    image: Image.Image
    mask: Image.Image | None = None
    source: Image.Image | None = None
    source_mask: Image.Image | None = None
    box: Box | None = None
    colours: Pixels | None = None

    def showing(self, mask: Image.Image) -> Prepared:
        """Return the same with another mask (L, of any size) for the way back."""
        if self.source is None:
            return self
        size = self.source.size if self.box is None else self.box.size
        part = mask.resize(self.image.size, Image.Resampling.BICUBIC)
        part = part.filter(ImageFilter.GaussianBlur(_SHOWN_BLUR)).resize(size)
        if self.box is not None:
            whole = Image.new("L", self.source.size)
            whole.paste(part, self.box.corners)
            part = whole
        return replace(self, source_mask=part)

    def finished(self, drawn: Pixels, *, overlay: bool) -> Pixels:
        """Return the result; with `overlay` what is not masked is the source, bit by bit."""
        if self.colours is not None:
            drawn = with_colours_of(drawn, self.colours)
        if self.source is None or self.source_mask is None:
            return drawn
        if self.box is not None:
            part = resized(Image.fromarray(drawn), CROP_AND_RESIZE, *self.box.size)
            whole = self.source.copy()
            whole.paste(part, self.box.corners)
            drawn = np.asarray(whole)
        return laid_over(drawn, np.asarray(self.source), self.source_mask) if overlay else drawn


def prepare(
    image: Image.Image,
    mask_picture: Image.Image | None,
    request: GenerationRequest,
    settings: Settings,
    upscaler: Upscaler = PLAIN,
) -> Prepared:
    """Return one initial picture (RGB) made ready, with its mask if there is one.

    `upscaler` enlarges the picture where it is smaller than what is drawn.

    An empty mask counts as none (A1111).
    """
    size = request.width or image.width, request.height or image.height
    mask = None if mask_picture is None else _mask(mask_picture, image.size, request)
    if mask is not None and mask.getbbox() is None:
        mask = None
    box = None
    if mask is not None and request.only_masked:
        box = masked_box(mask, request.only_masked_padding, *size)
    if mask is not None and box is not None:
        part = resized(image.crop(box.corners), RESIZE_AND_FILL, *size, upscaler)
        part_mask = resized(mask.crop(box.corners), RESIZE_AND_FILL, *size)
        return _coloured(Prepared(part, part_mask, image, mask, box), request, settings)
    # Latents are stretched when they are enlarged, and so are the mask and what is laid under.
    mode = JUST_RESIZE if request.resize_mode == LATENT_UPSCALE else request.resize_mode
    whole = resized(image, mode, *size, upscaler)
    is_enlarged_later = request.resize_mode == LATENT_UPSCALE and (
        image.width * image.height <= _MOST_ENCODED * size[0] * size[1]
    )
    start = image if is_enlarged_later else whole
    if mask is None:
        return _coloured(Prepared(start), request, settings)
    mask = resized(mask, mode, *size)
    return _coloured(Prepared(start, mask, whole, doubled(mask)), request, settings)


def _mask(picture: Image.Image, size: tuple[int, int], request: GenerationRequest) -> Image.Image:
    mask = mask_of(picture, size, soft=not request.mask_round)
    if request.mask_invert:
        mask = ImageOps.invert(mask)
    return blurred(mask, request.mask_blur_x, request.mask_blur_y)


def _coloured(made: Prepared, request: GenerationRequest, settings: Settings) -> Prepared:
    """Fill the masked part, and note the colours if the result shall have them."""
    image = made.image
    if made.mask is not None and request.masked_content != ORIGINAL_CONTENT:
        image = filled(image, made.mask.resize(image.size))
    colours = np.asarray(image) if settings.img2img_color_correction else None
    return Prepared(image, made.mask, made.source, made.source_mask, made.box, colours)
