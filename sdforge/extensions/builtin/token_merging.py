"""Token merging: faster self-attention on large pictures. See `models.edits.merged_tokens`.

A1111 has it as options (`token_merging_ratio`, `token_merging_ratio_hr`), which act here too: this
extension reads them when the request gives no ratio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdforge.core.extension import DenoiseContext, Extension, Guided, Values
from sdforge.core.settings import Settings
from sdforge.extensions.values import number
from sdforge.extensions.wrapping import Edited

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn


class TokenMerging(Extension):
    """Fewer places for self-attention at the largest feature maps."""

    name = "token_merging"
    label = "Token merging"
    order = 90
    help = "Faster large pictures at some loss of detail."
    fields = (
        number("ratio", 0.0, 0, 0.9, "Ratio", "Share of places that are merged; 0 is off."),
        number("ratio_hr", 0.0, 0, 0.9, "Ratio, hires pass", "The same for the hires pass."),
    )

    def is_active(self, values: Values) -> bool:
        """Tell whether any ratio is above 0."""
        return bool(values["ratio"] > 0 or values["ratio_hr"] > 0)

    def values_from_settings(self, settings: Settings) -> Values | None:
        """Return the ratios of A1111's options, unless they are both off."""
        values = {
            "ratio": settings.token_merging_ratio,
            "ratio_hr": settings.token_merging_ratio_hr,
        }
        return values if any(values.values()) else None

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser over the edited network."""
        from sdforge.models.edits import merged_tokens

        ratio = values["ratio_hr" if context.pass_name == "hires" else "ratio"]
        if ratio == 0:
            return denoiser

        def edit(network: nn.Module) -> AbstractContextManager[None]:
            return merged_tokens(network, ratio)

        return Edited(denoiser, context.network, edit, lambda sigma: True)
