"""CFG rescale: guidance without over-exposure. See `sampling.guidance_rules.rescaled`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.extensions.values import number
from sdforge.extensions.wrapping import Adjusted

if TYPE_CHECKING:
    from torch import Tensor


class CfgRescale(Extension):
    """Gives guided predictions the contrast of unguided ones."""

    name = "cfg_rescale"
    label = "CFG Rescale"
    aliases = ("CFG Rescale Extension", "RescaleCFG Integrated")
    order = 80
    help = "Less contrast and burning from guidance; 0.7 is common for v-prediction models."
    fields = (number("amount", 0.0, 0, 1, "CFG Rescale", "0 is off.", step=0.05),)

    def is_active(self, values: Values) -> bool:
        """Tell whether the amount is above 0."""
        return bool(values["amount"] > 0)

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser with its contrast restored."""
        from sdforge.sampling.guidance_rules import rescaled

        def adjust(x: Tensor, sigma: float, guided: Tensor) -> Tensor:
            cond, uncond = denoiser.guesses(x, sigma)
            if uncond is None:
                return guided
            return rescaled(x, sigma, cond, guided, values["amount"])

        return Adjusted(denoiser, adjust)
