"""Self-attention guidance: away from what the network says when what it looks at is blurred.

Hong et al. 2022, arXiv:2210.00939, algorithm 2: where the middle block's attention gathers, the
guess is blurred, the step's noise put back, and the network asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.extensions.values import ENABLED, number
from sdforge.extensions.wrapping import Adjusted

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn


class SelfAttentionGuidance(Extension):
    """Sharper detail for two more calls of the network per step."""

    name = "sag"
    label = "Self-Attention Guidance"
    aliases = (
        "SelfAttentionGuidance Integrated (SD 1.x, SD 2.x, SDXL)",
        "SelfAttentionGuidance Integrated",
    )
    order = 60
    help = "Sharper detail; each step takes two more calls of the network."
    fields = (
        ENABLED,
        number("scale", 0.5, -2, 5, "Scale", "How strongly."),
        number("blur_sigma", 2.0, 0, 10, "Blur sigma", "Of the blur, in latent pixels."),
        number("threshold", 1.0, 0, 4, "Threshold", "Attention above which a place is blurred."),
    )

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser with the guidance added."""
        from sdforge.models.edits import recorded_middle_attention
        from sdforge.sampling.guidance_rules import blurred_where

        # The paper guides the guess without prompt; with guidance off there is only the other one.
        def adjust(x: Tensor, sigma: float, guided: Tensor) -> Tensor:
            negative = denoiser.guesses(x, sigma)[1]
            side = "cond" if negative is None else "uncond"
            maps: list[Tensor] = []

            def record(network: nn.Module) -> AbstractContextManager[None]:
                return recorded_middle_attention(network, maps)

            clean = denoiser.guess(x, sigma, of=side, edit=record)
            degraded = blurred_where(
                clean, maps[-1], threshold=values["threshold"], sigma=values["blur_sigma"]
            )
            again = denoiser.guess(degraded + (x - clean), sigma, of=side)
            adjusted: Tensor = guided + values["scale"] * (degraded - again)
            return adjusted

        return Adjusted(denoiser, adjust)
