"""The noise levels that a pass walks: the model's own, in flow models shifted by the size."""

from __future__ import annotations

from sdforge.models.denoiser import DenoiserModel
from sdforge.models.flow_denoiser import BY_SIZE, FlowDenoiser
from sdforge.sampling.flow_sigmas import FlowSigmas, flux2_shift, flux_shift
from sdforge.sampling.model_sigmas import ModelSigmas

_PATCH_PX = 16


def noise_levels(model: DenoiserModel, width: int, height: int, steps: int) -> ModelSigmas:
    """Return the sigmas of a model for pictures of a size in pixels, walked in so many steps."""
    if not isinstance(model, FlowDenoiser):
        return model
    shift = model.shift
    if isinstance(shift, str):
        tokens = (width // _PATCH_PX) * (height // _PATCH_PX)
        shift = flux_shift(tokens) if shift == BY_SIZE else flux2_shift(tokens, steps)
    return FlowSigmas(shift)
