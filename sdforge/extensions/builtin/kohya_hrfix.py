"""Kohya HRFix (deep shrink): large pictures without second heads. See `models.deep_shrink`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.core.fields import Field
from sdforge.extensions.values import ENABLED, START, is_within, number
from sdforge.extensions.wrapping import Edited

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn

_METHODS = ("bicubic", "nearest-exact", "bilinear", "area", "bislerp")


class KohyaHrFix(Extension):
    """Pictures beyond a model's own size that hold together, without a second pass."""

    name = "kohya_hrfix"
    label = "Kohya HRFix"
    aliases = ("Kohya HRFix Integrated", "Kohya deep shrink")
    order = 90
    help = "Large pictures in one pass that hold together; for U-Nets (SD 1.x, SD 2.x, SDXL)."
    # Defaults and order of arguments are Forge's.
    fields = (
        ENABLED,
        Field(
            name="block_number", kind=int, default=3, label="Block Number", api="block_number",
            minimum=1, maximum=32, lowest=1, highest=32, step=1,
            help="Behind this block of the way down the map is smaller.",
        ),
        number("downscale_factor", 2.0, 0.1, 9.0, "Downscale Factor", "By which its sides shrink."),
        START,
        number("end", 0.35, 0.0, 1.0, "End", "Share of the steps after which it stops."),
        Field(
            name="downscale_after_skip", kind=bool, default=True, label="Downscale After Skip",
            api="downscale_after_skip", help="The way up sees this block's map in full size.",
        ),
        Field(
            name="downscale_method", kind=str, default="bicubic", label="Downscale Method",
            api="downscale_method", options=_METHODS,
        ),
        Field(
            name="upscale_method", kind=str, default="bicubic", label="Upscale Method",
            api="upscale_method", options=_METHODS,
        ),
    )  # fmt: skip

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser over the shrunk network."""
        from sdforge.models.deep_shrink import Shrink, shrunk

        shrink = Shrink(
            block=values["block_number"],
            factor=values["downscale_factor"],
            after_skip=values["downscale_after_skip"],
            down=values["downscale_method"],
            up=values["upscale_method"],
        )

        def edit(network: nn.Module) -> AbstractContextManager[None]:
            return shrunk(network, shrink)

        return Edited(
            denoiser, context.network, edit, lambda sigma: is_within(context, sigma, values)
        )
