"""SD upscale: a picture enlarged by an upscaler, then redrawn tile by tile with img2img."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import Cancelled
from sdforge.core.extension import Values
from sdforge.core.fields import Field
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult
from sdforge.core.script import Script, Studio
from sdforge.extensions.values import number

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from sdforge.postprocess.tile_grid import TileGrid

_UPSCALER = 1


class SdUpscale(Script):
    """Enlarges pictures beyond the size that a model can draw at once."""

    name = "sd_upscale"
    label = "SD upscale"
    kinds = ("img2img",)
    help = "Enlarges the picture, then redraws it in tiles of width × height with low strength."
    fields = (
        Field(
            name="overlap", kind=int, default=64, label="Tile overlap", api="overlap", minimum=0,
            maximum=256, step=16, lowest=0, highest=2048, help="In pixels, at least.",
        ),
        Field(
            name="upscaler", kind=str, default="None", label="Upscaler", api="upscaler",
            choices="upscalers", help="What enlarges the picture before.",
        ),
        number("scale", 2.0, 1, 8, "Scale factor", "How much larger each side becomes.", step=0.05),
    )  # fmt: skip

    def values_of_arguments(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """Return values by name; A1111's first argument is a text of its page.

        The upscaler may come by its number in the list, as the page's radio buttons have it.
        """
        given = list(arguments[1:])
        if len(given) > _UPSCALER and isinstance(given[_UPSCALER], int):
            given[_UPSCALER] = str(given[_UPSCALER])
        return super().values_of_arguments(given)

    def batch_count(self, request: GenerationRequest, values: Values) -> int:
        """Return the batches of tiles of all rounds."""
        tiles = _grid(request, *self.result_size(request, values), values)
        return request.batch_count * math.ceil(len(tiles) / request.batch_size)

    def result_size(self, request: GenerationRequest, values: Values) -> tuple[int, int]:
        """Return the size of the enlarged picture."""
        source, scale = request.init_images[0], values["scale"]
        return max(int(source.width * scale), 1), max(int(source.height * scale), 1)

    def run(
        self, request: GenerationRequest, values: Values, studio: Studio
    ) -> Iterator[ImageResult]:
        """Yield one enlarged picture for each of the batch count."""
        import numpy as np

        from sdforge.postprocess.decoding import flattened

        size = self.result_size(request, values)
        source = flattened(
            studio.picture(request.init_images[0]), studio.settings.img2img_background_color
        )
        large = np.asarray(studio.enlarged(source, *size, values["upscaler"]))
        grid = _grid(request, *size, values)
        tiles = grid.cut(large)
        for number_of_round in range(request.batch_count):
            yield from _one_round(request, number_of_round, grid, tiles, studio)


def _one_round(
    request: GenerationRequest,
    number_of_round: int,
    grid: TileGrid,
    tiles: Sequence[npt.NDArray[np.uint8]],
    studio: Studio,
) -> Iterator[ImageResult]:
    """Yield the picture of redrawn tiles; stopped early, the tiles that are missing stay plain."""
    done = list(tiles)
    seed = (request.seed + number_of_round) % 2**32
    first: ImageResult | None = None
    stopped: Cancelled | None = None
    is_complete = True
    for start in range(0, len(tiles), request.batch_size):
        given = tiles[start : start + request.batch_size]
        asked = replace(
            _of_tiles(request, number_of_round, len(given), seed + start),
            init_images=tuple(studio.put(_whole(tile, request)) for tile in given),
        )
        try:
            for result in studio.draw(asked):
                if result.suffix:
                    continue
                first = first or result
                is_complete = is_complete and result.is_complete
                height, width = tiles[start].shape[:2]
                done[start + result.index] = result.pixels[:height, :width]
        except Cancelled as error:
            stopped = error
            break
    if first is not None:
        yield replace(first, pixels=grid.joined(done), is_complete=is_complete and stopped is None)
    if stopped is not None:
        raise stopped


def _of_tiles(
    request: GenerationRequest, number_of_round: int, count: int, seed: int
) -> GenerationRequest:
    """Return the request for some tiles, with the prompts of a round."""
    index = number_of_round * request.batch_size
    return replace(
        request,
        batch_count=1,
        batch_size=count,
        seed=seed % 2**32,
        mask=None,
        prompts=(request.image_prompt(index),),
        negative_prompts=(request.image_negative_prompt(index),),
    )


def _grid(request: GenerationRequest, width: int, height: int, values: Values) -> TileGrid:
    from sdforge.postprocess.tile_grid import tile_grid

    tile = request.width or width, request.height or height
    return tile_grid(width, height, *tile, values["overlap"])


def _whole(tile: npt.NDArray[np.uint8], request: GenerationRequest) -> Image.Image:
    """Return a tile of the size to draw; one of a smaller picture is drawn out to it."""
    import numpy as np
    from PIL import Image

    height, width = tile.shape[:2]
    below, beside = max((request.height or 0) - height, 0), max((request.width or 0) - width, 0)
    return Image.fromarray(np.pad(tile, [(0, below), (0, beside), (0, 0)], mode="edge"))
