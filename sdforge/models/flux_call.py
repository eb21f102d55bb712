"""How Flux's transformer is called: latents cut into patches, places told, answers put together."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sdforge.models.denoiser import Conditioning

PATCH = 2


def call_flux(
    module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
) -> torch.Tensor:
    """Return the velocity for latents (rows, channels, height, width)."""
    height, width = x.shape[-2:]
    padded = padded_to_patches(x)
    rows, columns = (side // PATCH for side in padded.shape[-2:])
    tokens, device = conditioning.hidden.shape[1], x.device
    told = conditioning.numbers
    (answer,) = module(
        hidden_states=patches(padded),
        encoder_hidden_states=conditioning.hidden,
        pooled_projections=conditioning.pooled,
        timestep=torch.full((len(x),), sigma, device=device),
        img_ids=places(rows, columns, device),
        txt_ids=torch.zeros(tokens, 3, device=device),
        guidance=None if told is None else told[:, 0],
        return_dict=False,
    )
    return from_patches(answer, rows, columns)[..., :height, :width]


def padded_to_patches(x: torch.Tensor) -> torch.Tensor:
    """Return latents whose sides are whole patches; what is added comes from the opposite edge."""
    below, right = (-side % PATCH for side in x.shape[-2:])
    return F.pad(x, (0, right, 0, below), mode="circular") if below or right else x


def patches(x: torch.Tensor) -> torch.Tensor:
    """Return latents as (rows, patches, 4 × channels), channel by channel."""
    return F.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)


def from_patches(answer: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return the latents of patches, the inverse of `patches`."""
    return F.pixel_shuffle(answer.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)


def places(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Return the place of each patch: (patches, 3), zero, row and column."""
    grid = torch.zeros(rows, columns, 3, device=device)
    grid[..., 1] = torch.arange(rows, device=device)[:, None]
    grid[..., 2] = torch.arange(columns, device=device)[None, :]
    return grid.view(-1, 3)
