"""Adaptive projected guidance (APG). See `sampling.guidance_rules.ProjectedGuidance`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.extensions.values import ENABLED, number
from sdforge.extensions.wrapping import Combined

if TYPE_CHECKING:
    from torch import Tensor


class AdaptiveProjectedGuidance(Extension):
    """High CFG scales without saturated colours."""

    name = "apg"
    label = "Adaptive Projected Guidance"
    aliases = ("APG's now your CFG!", "APG")
    order = 10
    help = "High CFG scales without saturated colours."
    # The paper's values for Stable Diffusion XL.
    fields = (
        ENABLED,
        number("eta", 0.0, -10, 10, "Eta", "Share of guidance along the guess; 1 is plain CFG."),
        number("norm_threshold", 15.0, 0, 100, "Norm threshold", "Longest guidance; 0: any."),
        number("momentum", -0.5, -1, 1, "Momentum", "Of guidance over the steps."),
    )

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser with its combination replaced."""
        from sdforge.sampling.guidance_rules import ProjectedGuidance

        rule = ProjectedGuidance(
            eta=values["eta"],
            norm_threshold=values["norm_threshold"],
            momentum=values["momentum"],
        )

        def combine(x: Tensor, sigma: float, cond: Tensor, uncond: Tensor) -> Tensor:
            return rule(cond, uncond, denoiser.cfg_scale)

        return Combined(denoiser, combine)
