"""Upscalers by name: those that enlarge latents, and those that enlarge pictures.

Latent ones are a mode of interpolation; the pipeline runs it. Picture upscalers are functions;
one that needs a model registers itself here in the same way. The names are read at start, so
Pillow is loaded with the first picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sdforge.core.errors import UnknownName
from sdforge.core.registry import Registry

if TYPE_CHECKING:
    from PIL import Image


class Upscale(Protocol):
    """Enlarges a picture by about a factor; whoever calls it brings it to the exact size."""

    def __call__(self, image: Image.Image, factor: float) -> Image.Image:
        """Return an RGB picture of at least `factor` times the size, if it can."""


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

    size = (round(image.width * factor), round(image.height * factor))
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


def upscaler_name(name: str, field: str) -> str:
    """Return the registered name of an upscaler of either kind.

    Raises:
        UnknownName: there is none of that name.
    """
    for registry in (LATENT_MODES, UPSCALERS):
        if name in registry:
            return registry.get(name).name
    raise UnknownName("upscaler", name, [*LATENT_MODES.names(), *UPSCALERS.names()], field)


def enlarged(image: Image.Image, width: int, height: int, upscaler: str = "None") -> Image.Image:
    """Return the picture stretched to a size; an upscaler's own enlarging is then fitted to it.

    Raises:
        UnknownName: no such upscaler.
    """
    from PIL import Image

    function = UPSCALERS.get(upscaler or "None").function
    factor = max(width / image.width, height / image.height)
    if function is not None and factor > 1:
        image = function(image, factor)
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS)
