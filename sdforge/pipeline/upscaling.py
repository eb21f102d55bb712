"""Upscalers by name, as functions of pictures: those that need no model, and those that do.

One place for hires fix, "Upscaler for img2img" and extras. Networks run under leases of the memory
manager, tile by tile; between tiles the job looks whether it shall stop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sdforge.core.errors import InvalidRequest, UnknownName
from sdforge.core.settings import Settings
from sdforge.postprocess.upscalers import UPSCALERS, Upscale, Upscaler, picture_upscaler_names

if TYPE_CHECKING:
    from PIL import Image

    from sdforge.models.upscalers.library import UpscalerInfo
    from sdforge.models.upscalers.loaded import Upscalers
    from sdforge.pipeline.context import RunContext

# A model makes what it makes: of a large picture it may be far more than was asked for. So many
# times the largest picture that may be asked for is allowed on the way.
_MOST_ON_THE_WAY = 4


def picture_upscaler(context: RunContext, name: str) -> Upscaler:
    """Return the upscaler of a name in a run; "" resizes plainly.

    Raises:
        UnknownName: there is none of that name.
        ModelError: its file cannot serve.
    """

    def on_tile(done: int, total: int) -> None:
        context.check_cancelled()

    return find_upscaler(name, context.upscalers, context.settings, on_tile)


def find_upscaler(
    name: str,
    models: Upscalers | None,
    settings: Settings,
    on_tile: Callable[[int, int], None],
) -> Upscaler:
    """Return the upscaler of a name; "" resizes plainly.

    Args:
        name: as lists have it, or another spelling.
        models: gives out networks; without it there are only those that need none.
        settings: of the job, which hold the tiles' size.
        on_tile: called after each tile with (tiles done, tiles in all); it may raise to stop.

    Raises:
        UnknownName: there is none of that name.
        ModelError: its file cannot serve.
    """
    if (name or "None") in UPSCALERS:
        return UPSCALERS.get(name or "None")
    info = models.library.find(name) if models else None
    if models is None or info is None:
        known = picture_upscaler_names(models.library if models else None)
        raise UnknownName("upscaler", name, known, "upscaler")
    info = models.library.usable_one(name)
    return Upscaler(info.name, _function(info, models, settings, on_tile), info.scale)


def _function(
    info: UpscalerInfo,
    models: Upscalers,
    settings: Settings,
    on_tile: Callable[[int, int], None],
) -> Upscale:
    def upscale(image: Image.Image, factor: float) -> Image.Image:
        import numpy as np
        from PIL import Image

        from sdforge.models.upscalers.enlarge import Enlarging, Tiles

        most = settings.max_pixels_per_image * _MOST_ON_THE_WAY
        if image.width * image.height * info.scale**2 > most:
            raise InvalidRequest(
                "upscaler",
                f"{info.name}, which would make {image.width}x{image.height} "
                f"{info.scale} times as large",
                f"at most {most} pixels on the way: a smaller picture, or an upscaler that "
                "enlarges less",
            )
        tiles = Tiles(settings.ESRGAN_tile, settings.ESRGAN_tile_overlap)
        with models.lease(info) as loaded:
            larger = Enlarging(loaded, models.memory, tiles, on_tile).run(np.asarray(image))
        return Image.fromarray(larger)

    return upscale
