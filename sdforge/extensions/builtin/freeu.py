"""FreeU: more backbone, fewer skips in the decoder. See `models.edits.scaled_decoder`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.extensions.values import ENABLED, END, START, is_within, number
from sdforge.extensions.wrapping import Edited

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn


class FreeU(Extension):
    """Steadier shapes at no cost, by scaling inside the U-Net's decoder."""

    name = "freeu"
    label = "FreeU"
    aliases = ("FreeU Integrated (SD 1.x, SD 2.x, SDXL)", "FreeU Integrated")
    order = 90
    help = "Steadier shapes at no cost; for U-Nets (SD 1.x, SD 2.x, SDXL)."
    # Defaults and order of arguments are Forge's.
    fields = (
        ENABLED,
        number("b1", 1.01, 0, 4, "B1", "Backbone, deepest level."),
        number("b2", 1.02, 0, 4, "B2", "Backbone, next level."),
        number("s1", 0.99, 0, 4, "S1", "Skips, deepest level."),
        number("s2", 0.95, 0, 4, "S2", "Skips, next level."),
        START,
        END,
    )

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser over the edited network."""
        from sdforge.models.edits import scaled_decoder

        scales = {name: values[name] for name in ("b1", "b2", "s1", "s2")}

        def edit(network: nn.Module) -> AbstractContextManager[None]:
            return scaled_decoder(network, **scales)

        return Edited(
            denoiser, context.network, edit, lambda sigma: is_within(context, sigma, values)
        )
