"""Pictures that a job refers to beside the one of img2img: read once, as latents and as seen.

They keep sizes of their own. Models that read prompts together with pictures were trained on a
megapixel each; for the others larger ones are brought down to that, as diffusers does it. Their
order is that in which prompts count them, behind the picture of img2img.
"""

from __future__ import annotations

import math
from functools import cached_property

from PIL import Image
from torch import Tensor

from sdforge.core.inputs import InputImage
from sdforge.models.bundle import ModelBundle
from sdforge.models.qwen_edit_text import area_size
from sdforge.models.text_encoder import ShownPicture
from sdforge.pipeline.beside import encoded
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.img2img import open_input, pixels_of
from sdforge.postprocess.decoding import flattened

AREA = 1024**2
# Sides are whole patches of every family.
_MULTIPLE = 16


class ReferencePictures:
    """The pictures of a request's `references`."""

    def __init__(self, context: RunContext) -> None:
        """Read the files; raises as `InitPictures` does."""
        self._context = context
        self._pictures = [self._opened(image) for image in context.request.references]
        self._latents: tuple[str, tuple[Tensor, ...]] = ("", ())

    @cached_property
    def shown(self) -> tuple[ShownPicture, ...]:
        """The same for a prompt that is read together with them, as they were sent."""
        return tuple(map(ShownPicture.of, self._pictures))

    def latents(self, bundle: ModelBundle) -> tuple[Tensor, ...]:
        """Return latents of each, (1, channels, height/8, width/8); encoded once per checkpoint."""
        if self._latents[0] != bundle.key:
            pixels = [pixels_of(self._fitted(one, bundle), 1) for one in self._pictures]
            self._latents = (
                bundle.key,
                tuple(encoded(self._context, bundle, one) for one in pixels),
            )
        return self._latents[1]

    def _opened(self, image: InputImage) -> Image.Image:
        background = self._context.settings.img2img_background_color
        return flattened(open_input(self._context, image, "reference_images"), background)

    def _fitted(self, picture: Image.Image, bundle: ModelBundle) -> Image.Image:
        exact = bundle.text.sees_pictures
        size = reference_size(*picture.size, self._context.request.reference_side, exact=exact)
        if picture.size == size:
            return picture
        return picture.resize(size, Image.Resampling.LANCZOS)


def reference_size(width: int, height: int, side: int = 0, *, exact: bool) -> tuple[int, int]:
    """Return the size in pixels that a picture is referred to at.

    Args:
        width: of the picture.
        height: of the picture.
        side: its longer side is brought down to this many pixels; 0 for what the model is used to.
        exact: a megapixel, also where the picture is smaller; else at most that.
    """
    if exact and not side:
        return area_size(width, height, AREA)
    share = side / max(width, height) if side else math.sqrt(AREA / (width * height))
    sides = [int(one * min(share, 1.0)) for one in (width, height)]
    found = [max(one // _MULTIPLE, 1) * _MULTIPLE for one in sides]
    return found[0], found[1]


def references_infotext(context: RunContext) -> dict[str, str]:
    """Return how many pictures were referred to beside that of img2img, for the infotext."""
    count = len(context.request.references)
    return {"Reference images": str(count)} if count else {}
