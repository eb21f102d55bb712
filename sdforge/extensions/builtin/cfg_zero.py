"""CFG-Zero*: guidance against the best multiple of the negative guess.

See `sampling.guidance_rules.zero_star`. Made for flow models, where it also leaves the first steps
out: there the guess is worse than none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.core.fields import Field
from sdforge.extensions.values import ENABLED
from sdforge.extensions.wrapping import Combined

if TYPE_CHECKING:
    from torch import Tensor


class CfgZero(Extension):
    """Steadier guidance for flow models."""

    name = "cfg_zero"
    label = "CFG-Zero*"
    order = 10
    help = "Steadier guidance, for flow models above all."
    fields = (
        ENABLED,
        Field(
            name="zero_steps", kind=int, default=0, label="Steps left out", api="zero_steps",
            minimum=0, maximum=5, step=1, lowest=0, highest=100,
            help="First steps that change nothing; 1 suits flow models.",
        ),
    )  # fmt: skip

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser with its combination replaced."""
        from sdforge.sampling.guidance_rules import zero_star

        left_out = set(context.sigmas[: values["zero_steps"]])

        def combine(x: Tensor, sigma: float, cond: Tensor, uncond: Tensor) -> Tensor:
            if sigma in left_out:
                return x
            return zero_star(x, sigma, cond, uncond, denoiser.cfg_scale)

        return Combined(denoiser, combine)
