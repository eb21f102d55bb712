"""How SD 3's transformer is called: latents as they are, time in thousandths."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sdforge.core.errors import InvalidRequest
from sdforge.models.denoiser import Conditioning
from sdforge.models.flux_call import PATCH, padded_to_patches

_TIMESTEPS = 1000
_PIXELS_A_PATCH = 16


def call_sd3(
    module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
) -> torch.Tensor:
    """Return the velocity for latents (rows, channels, height, width).

    Raises:
        InvalidRequest: the picture has more patches a side than the file's table of places.
    """
    height, width = x.shape[-2:]
    padded = padded_to_patches(x)
    network: Any = module
    most = network.pos_embed.pos_embed_max_size
    if max(padded.shape[-2:]) > most * PATCH:
        side = most * _PIXELS_A_PATCH
        raise InvalidRequest("width or height", max(height, width) * 8, f"at most {side} pixels")
    (answer,) = module(
        hidden_states=padded,
        encoder_hidden_states=conditioning.hidden,
        pooled_projections=conditioning.pooled,
        timestep=torch.full((len(x),), sigma * _TIMESTEPS, device=x.device),
        return_dict=False,
    )
    velocity: torch.Tensor = answer[..., :height, :width]
    return velocity
