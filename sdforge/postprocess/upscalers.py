"""Upscalers by name: those that enlarge latents, and those that enlarge pictures.

Latent ones are a mode of interpolation; the pipeline runs it. Picture upscalers are functions:
those here need no model, the pipeline makes rows of the same kind for those that do
(`pipeline/upscaling.py`). The names are read at start, so Pillow is loaded with the first picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sdforge.core.errors import UnknownName
from sdforge.core.registry import Registry

if TYPE_CHECKING:
    from PIL import Image


# A model that doubles is run again where four times the size is wanted (A1111).
_MOST_RUNS = 3
# What an upscaler makes on the way to a size is at most so many times that; proportions far from
# those of the picture would ask for more.
_MOST_ON_THE_WAY = 16


class Upscale(Protocol):
    """Enlarges a picture; whoever calls it brings it to the exact size."""

    def __call__(self, image: Image.Image, factor: float) -> Image.Image:
        """Return an RGB picture, enlarged by `factor` or by whatever it can."""


@dataclass(frozen=True)
class Upscaler:
    """A picture upscaler; `function` is None where plain resizing is all it does."""

    name: str
    function: Upscale | None = None
    factor: float = 4.0


@dataclass(frozen=True)
class LatentMode:
    """How latents are interpolated, in torch's names."""

    name: str
    mode: str
    antialias: bool = False


def _nearest(image: Image.Image, factor: float) -> Image.Image:
    from PIL import Image

    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    return image.resize(size, Image.Resampling.NEAREST)


def _latent_modes() -> Registry[LatentMode]:
    table: Registry[LatentMode] = Registry("latent upscaler")
    for row in (
        LatentMode("Latent", "bilinear"),
        LatentMode("Latent (antialiased)", "bilinear", antialias=True),
        LatentMode("Latent (bicubic)", "bicubic"),
        LatentMode("Latent (bicubic antialiased)", "bicubic", antialias=True),
        LatentMode("Latent (nearest)", "nearest"),
        LatentMode("Latent (nearest-exact)", "nearest-exact"),
    ):
        table.add(row.name, row)
    return table


def _upscalers() -> Registry[Upscaler]:
    table: Registry[Upscaler] = Registry("upscaler")
    # "None" resizes as Lanczos does, wherever A1111 has to resize at all.
    for row in (Upscaler("None"), Upscaler("Lanczos"), Upscaler("Nearest", _nearest)):
        table.add(row.name, row)
    return table


LATENT_MODES = _latent_modes()
UPSCALERS = _upscalers()
# Resizes and nothing else.
PLAIN = UPSCALERS.get("None")


class UpscalerModels(Protocol):
    """The upscaler files that there are; `models.upscalers.library` has the real ones."""

    def names(self) -> list[str]:
        """Return the names of those that can be run."""

    def canonical(self, name: str) -> str | None:
        """Return the listed name of one by any spelling, None where there is none."""


def picture_upscaler_names(models: UpscalerModels | None = None) -> list[str]:
    """Return the names of all that enlarge pictures, in A1111's order."""
    return [*UPSCALERS.names(), *(models.names() if models else ())]


def picture_upscaler_name(name: str, field: str, models: UpscalerModels | None = None) -> str:
    """Return the listed name of what enlarges pictures; "" is "None".

    Raises:
        UnknownName: there is none of that name.
    """
    if (name or PLAIN.name) in UPSCALERS:
        return UPSCALERS.get(name or PLAIN.name).name
    found = models.canonical(name) if models else None
    if found is None:
        raise UnknownName("upscaler", name, picture_upscaler_names(models), field)
    return found


def upscaler_name(name: str, field: str, models: UpscalerModels | None = None) -> str:
    """Return the listed name of an upscaler of either kind.

    Raises:
        UnknownName: there is none of that name.
    """
    if name in LATENT_MODES:
        return LATENT_MODES.get(name).name
    try:
        return picture_upscaler_name(name, field, models)
    except UnknownName as error:
        known = [*LATENT_MODES.names(), *picture_upscaler_names(models)]
        raise UnknownName("upscaler", name, known, field) from error


def enlarged(
    image: Image.Image, width: int, height: int, upscaler: Upscaler = PLAIN
) -> Image.Image:
    """Return the picture stretched to a size; an upscaler's own enlarging is then fitted to it."""
    from PIL import Image

    if max(width / image.width, height / image.height) > 1:
        image = run_upscaler(image, width, height, upscaler)
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS)


def run_upscaler(image: Image.Image, width: int, height: int, upscaler: Upscaler) -> Image.Image:
    """Return what an upscaler makes of a picture, run again until it covers a size.

    One that does not enlarge runs once; the size may be exceeded, or not be reached.
    """
    if upscaler.function is None:
        return image
    for _ in range(_MOST_RUNS):
        before = image.size
        most = math.sqrt(_MOST_ON_THE_WAY * width * height / (image.width * image.height))
        if most <= 1:
            break
        factor = min(max(width / image.width, height / image.height), most)
        image = upscaler.function(image, factor)
        if image.size == before or (image.width >= width and image.height >= height):
            break
    return image
