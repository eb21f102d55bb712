"""How Z-Image's transformer is called: lists of pictures and texts, and time running forward."""

from __future__ import annotations

import torch
from torch import nn

from sdforge.models.denoiser import Conditioning
from sdforge.models.flux_call import padded_to_patches


def call_z_image(
    module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
) -> torch.Tensor:
    """Return the velocity for latents (rows, channels, height, width)."""
    height, width = x.shape[-2:]
    pictures = padded_to_patches(x).unsqueeze(2)
    # Its time is the share of the clean picture, and it answers `clean − noise`.
    time = torch.full((len(x),), 1 - sigma, device=x.device)
    answers = module(
        list(pictures.unbind(0)), time, list(conditioning.hidden.unbind(0)), return_dict=False
    )[0]
    return -torch.stack(list(answers)).squeeze(2)[..., :height, :width]
