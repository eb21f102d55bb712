"""Perturbed-attention guidance: away from what the network says when its middle is blind.

Ahn et al. 2024, arXiv:2403.17377. See `models.edits.blind_middle_attention`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.extensions.values import ENABLED, END, START, is_within, number
from sdforge.extensions.wrapping import Adjusted

if TYPE_CHECKING:
    from torch import Tensor


class PerturbedAttention(Extension):
    """Better structure for one more call of the network per step."""

    name = "pag"
    label = "Perturbed-Attention Guidance"
    aliases = (
        "PerturbedAttentionGuidance Integrated",
        "PerturbedAttentionGuidance Integrated (SD 1.x, SD 2.x, SDXL)",
    )
    order = 60
    help = "Better structure; each step takes one more call of the network."
    fields = (
        ENABLED,
        number("scale", 3.0, 0, 100, "Scale", "How strongly.", step=0.1),
        number(
            "attenuation", 0.0, 0, 100, "Attenuation", "Per cent that the scale falls each step.",
            step=0.1,
        ),
        START,
        END,
    )  # fmt: skip

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser with the guidance added."""
        from sdforge.models.edits import blind_middle_attention

        steps = max(len(context.sigmas) - 1, 1)

        def adjust(x: Tensor, sigma: float, guided: Tensor) -> Tensor:
            passed = round(context.fraction(sigma) * steps)
            scale = values["scale"] * max(1 - values["attenuation"] / 100 * passed, 0.0)
            if scale == 0 or not is_within(context, sigma, values):
                return guided
            seeing = denoiser.guesses(x, sigma)[0]
            blind = denoiser.guess(x, sigma, edit=blind_middle_attention)
            adjusted: Tensor = guided + scale * (seeing - blind)
            return adjusted

        return Adjusted(denoiser, adjust)
