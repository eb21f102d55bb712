"""Outpainting mk2: a picture grows on its sides, out of noise that is like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import Cancelled, InvalidRequest
from sdforge.core.extension import Values
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult
from sdforge.core.script import Script, Studio
from sdforge.extensions.sides import (
    MULTIPLE,
    PIXELS,
    SIDE_FIELDS,
    SIDES,
    enlarged_size,
    mask_blur,
    of_sides,
    part_request,
    source_pixels,
)
from sdforge.extensions.values import number
from sdforge.postprocess.outpainting import Margins, matched_noise

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ORIGINAL_CONTENT = 1
_DIRECTIONS = 2


class OutpaintingMk2(Script):
    """Grows one side after another, each from what is there by then."""

    name = "outpainting_mk2"
    label = "Outpainting mk2"
    kinds = ("img2img",)
    help = "Continues the picture on its sides; wants a denoising strength of about 0.8."
    fields = (
        PIXELS,
        mask_blur(8),
        number("falloff", 1.0, 0, 4, "Fall-off exponent", "Lower is more detail."),
        number("variation", 0.05, 0, 1, "Color variation", "Of the noise to begin with."),
        *SIDE_FIELDS,
    )

    def values_of_arguments(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """Return values by name; A1111's arguments begin with a text and have a list of sides."""
        given = list(arguments[1:])
        sides = of_sides(given.pop(_DIRECTIONS)) if len(given) > _DIRECTIONS else {}
        return super().values_of_arguments(given[: len(self.fields) - len(SIDES)]) | sides

    def on_request(self, request: GenerationRequest, values: Values) -> GenerationRequest:
        """Return the request; raises `InvalidRequest` without any side."""
        if not any(values[side] for side in SIDES):
            raise InvalidRequest("script_args", "no direction", f"some of {', '.join(SIDES)}")
        return request

    def batch_count(self, request: GenerationRequest, values: Values) -> int:
        """Return the sides of all pictures."""
        return request.image_count * sum(bool(values[side]) for side in SIDES)

    def picture_count(self, request: GenerationRequest, values: Values) -> int:
        """Return how many pictures are drawn."""
        return self.batch_count(request, values)

    def result_size(self, request: GenerationRequest, values: Values) -> tuple[int, int]:
        """Return the size of the enlarged picture."""
        return enlarged_size(request, values)

    def run(
        self, request: GenerationRequest, values: Values, studio: Studio
    ) -> Iterator[ImageResult]:
        """Yield the enlarged pictures; of one that is stopped what it has reached."""
        source = source_pixels(request, studio)
        for index in range(request.image_count):
            pixels, last = source, None
            try:
                for side in SIDES:
                    if values[side]:
                        pixels, last = _grown(request, index, pixels, side, values, studio)
            except Cancelled:
                if last is not None:
                    yield replace(last, pixels=pixels, is_complete=False)
                raise
            if last is not None:
                yield replace(last, pixels=pixels)


def _grown(
    request: GenerationRequest,
    index: int,
    source: npt.NDArray[np.uint8],
    side: str,
    values: Values,
    studio: Studio,
) -> tuple[npt.NDArray[np.uint8], ImageResult]:
    """Return a picture that has grown on one side, and the result that its new part is from."""
    room, blur = Margins(**{side: values["pixels"]}), values["mask_blur"]
    height, width = source.shape[:2]
    unknown = room.mask(width, height, 0) > 0
    seed = request.image_seed(index) + SIDES.index(side)
    canvas = room.around(source)
    part = _drawn_part(canvas.shape[:2], request, values, side)
    canvas[part] = matched_noise(
        canvas[part],
        unknown[part],
        falloff=values["falloff"],
        variation=values["variation"],
        seed=seed,
    )
    asked = part_request(
        request,
        index,
        canvas[part],
        room.mask(width, height, blur)[part],
        studio,
        masked_content=_ORIGINAL_CONTENT,
        mask_blur_x=blur if room.left or room.right else 0,
        mask_blur_y=blur if room.up or room.down else 0,
    )
    drawn = [result for result in studio.draw(asked) if not result.suffix][-1]
    tall, wide = canvas[part].shape[:2]
    canvas[part] = drawn.pixels[:tall, :wide]
    return canvas, drawn


def _drawn_part(
    size: tuple[int, int], request: GenerationRequest, values: Values, side: str
) -> tuple[slice, slice]:
    """Return rows and columns of what is drawn: along the side all, across it as much as asked.

    That is more than what is new in any case, or there would be nothing to continue.
    """
    height, width = size
    least = values["pixels"] + 2 * values["mask_blur"] + MULTIPLE
    tall, wide = height, width
    if side in ("left", "right"):
        wide = min(max(request.width or 0, least), width)
    else:
        tall = min(max(request.height or 0, least), height)
    top = height - tall if side == "down" else 0
    left = width - wide if side == "right" else 0
    return slice(top, top + tall), slice(left, left + wide)
