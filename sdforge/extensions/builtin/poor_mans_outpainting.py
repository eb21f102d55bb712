"""Poor man's outpainting: room around a picture, inpainted tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import Cancelled, InvalidRequest
from sdforge.core.extension import Values
from sdforge.core.fields import Field
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult
from sdforge.core.script import Script, Studio
from sdforge.extensions.sides import (
    PIXELS,
    SIDE_FIELDS,
    SIDES,
    enlarged_size,
    margins,
    mask_blur,
    of_sides,
    part_request,
    source_pixels,
)
from sdforge.postprocess.tile_grid import tile_grid

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sdforge.postprocess.tile_grid import TileGrid

_CONTENTS = ("fill", "original", "latent noise", "latent nothing")
_CONTENT, _DIRECTIONS = 2, 3


class PoorMansOutpainting(Script):
    """Grows all sides at once, with any masked content."""

    name = "poor_mans_outpainting"
    label = "Poor man's outpainting"
    kinds = ("img2img",)
    help = "Puts room around the picture and inpaints it in tiles of width × height."
    fields = (
        PIXELS,
        mask_blur(4),
        Field(
            name="content", kind=str, default="fill", label="Masked content", api="content",
            options=_CONTENTS, help="What the new part starts as.",
        ),
        *SIDE_FIELDS,
    )  # fmt: skip

    def values_of_arguments(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """Return values by name; A1111's content is a number, its sides are a list."""
        given = list(arguments)
        sides = of_sides(given[_DIRECTIONS]) if len(given) > _DIRECTIONS else {}
        content = given[_CONTENT] if len(given) > _CONTENT else None
        if isinstance(content, int) and 0 <= content < len(_CONTENTS):
            given[_CONTENT] = _CONTENTS[content]
        return super().values_of_arguments(given[:_DIRECTIONS]) | sides

    def on_request(self, request: GenerationRequest, values: Values) -> GenerationRequest:
        """Return the request; raises `InvalidRequest` without any side."""
        if not any(values[side] for side in SIDES):
            raise InvalidRequest("script_args", "no direction", f"some of {', '.join(SIDES)}")
        return request

    def batch_count(self, request: GenerationRequest, values: Values) -> int:
        """Return the tiles to draw of all pictures."""
        grid, mask = _grid(request, values)
        return request.image_count * sum(bool(tile.any()) for tile in grid.cut(mask))

    def picture_count(self, request: GenerationRequest, values: Values) -> int:
        """Return how many pictures are drawn."""
        return self.batch_count(request, values)

    def result_size(self, request: GenerationRequest, values: Values) -> tuple[int, int]:
        """Return the size of the enlarged picture."""
        return enlarged_size(request, values)

    def run(
        self, request: GenerationRequest, values: Values, studio: Studio
    ) -> Iterator[ImageResult]:
        """Yield the enlarged pictures; one that is stopped is plain where it was not drawn yet."""
        canvas = margins(values).around(source_pixels(request, studio))
        grid, mask = _grid(request, values)
        for index in range(request.image_count):
            done = grid.cut(canvas)
            last: ImageResult | None = None
            try:
                for number, marked in enumerate(grid.cut(mask)):
                    if not marked.any():
                        continue
                    asked = part_request(
                        request,
                        index,
                        done[number],
                        marked,
                        studio,
                        masked_content=_CONTENTS.index(values["content"]),
                        mask_blur_x=values["mask_blur"],
                        mask_blur_y=values["mask_blur"],
                    )
                    asked = replace(asked, seed=(asked.seed + number) % 2**32)
                    last = [result for result in studio.draw(asked) if not result.suffix][-1]
                    height, width = marked.shape
                    done[number] = last.pixels[:height, :width]
            except Cancelled:
                if last is not None:
                    yield replace(last, pixels=grid.joined(done), is_complete=False)
                raise
            if last is not None:
                yield replace(last, pixels=grid.joined(done))


def _grid(request: GenerationRequest, values: Values) -> tuple[TileGrid, npt.NDArray[np.uint8]]:
    """Return the tiles of the enlarged picture, and the mask of what is new in it."""
    width, height = enlarged_size(request, values)
    source = request.init_images[0]
    grid = tile_grid(
        width, height, request.width or width, request.height or height, values["pixels"]
    )
    # A1111's: the new part begins two radii of the blur within the old one.
    return grid, margins(values).mask(source.width, source.height, 2 * values["mask_blur"])
