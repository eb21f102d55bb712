"""Perp-Neg: a negative prompt that cannot take away what the prompt asks for.

See `sampling.guidance_rules.perpendicular_negative`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.extensions.values import ENABLED, number
from sdforge.extensions.wrapping import Combined

if TYPE_CHECKING:
    from torch import Tensor


class PerpNeg(Extension):
    """Negative prompts that overlap with the prompt, for one more call of the network."""

    name = "perp_neg"
    label = "Perp-Neg"
    order = 10
    help = "The negative prompt removes only what the prompt does not ask for."
    fields = (
        ENABLED,
        number("scale", 1.0, 0, 10, "Negative scale", "Weight of the negative prompt."),
    )

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser with its combination replaced."""
        from sdforge.sampling.guidance_rules import perpendicular_negative

        def combine(x: Tensor, sigma: float, cond: Tensor, uncond: Tensor) -> Tensor:
            empty = denoiser.guess(x, sigma, of="empty")
            return perpendicular_negative(empty, cond, uncond, denoiser.cfg_scale, values["scale"])

        return Combined(denoiser, combine)
