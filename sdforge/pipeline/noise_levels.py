"""The noise levels that a pass walks: the model's own, in flow models shifted by the size."""

from __future__ import annotations

from sdforge.models.denoiser import DenoiserModel
from sdforge.models.flow_denoiser import FlowDenoiser
from sdforge.sampling.flow_sigmas import FlowSigmas, flux_shift
from sdforge.sampling.model_sigmas import ModelSigmas

_PATCH_PX = 16


def noise_levels(model: DenoiserModel, width: int, height: int) -> ModelSigmas:
    """Return the sigmas of a model for pictures of a size in pixels."""
    if not isinstance(model, FlowDenoiser):
        return model
    if model.shift is not None:
        return FlowSigmas(model.shift)
    return FlowSigmas(flux_shift((width // _PATCH_PX) * (height // _PATCH_PX)))
