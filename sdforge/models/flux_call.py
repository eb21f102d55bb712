"""How Flux's transformer is called: latents cut into patches, places told, answers put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from sdforge.models.denoiser import Conditioning

PATCH = 2


def call_flux(
    module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
) -> torch.Tensor:
    """Return the velocity for latents (rows, channels, height, width).

    Patches of pictures to refer to lie behind those that are drawn, further input channels within
    them. A second picture to refer to has its place right of the first or below it, whichever is
    nearer to a square.
    """
    height, width = x.shape[-2:]
    shown = padded_to_patches(x)
    rows, columns = (side // PATCH for side in shown.shape[-2:])
    tokens, device = conditioning.hidden.shape[1], x.device
    where = places(rows, columns, device)
    if conditioning.beside is not None:
        shown = torch.cat([shown, padded_to_patches(conditioning.beside.to(x))], dim=1)
    pictures = [padded_to_patches(picture.to(x)) for picture in conditioning.references]
    seen = torch.cat([patches(shown), *map(patches, pictures)], dim=1)
    where = torch.cat([where, *_laid_out(pictures)])
    told = conditioning.numbers
    (answer,) = module(
        hidden_states=seen,
        encoder_hidden_states=conditioning.hidden,
        pooled_projections=conditioning.pooled,
        timestep=torch.full((len(x),), sigma, device=device),
        img_ids=where,
        txt_ids=torch.zeros(tokens, 3, device=device),
        guidance=None if told is None else told[:, 0],
        return_dict=False,
    )
    drawn = answer[:, : rows * columns]
    return from_patches(drawn, rows, columns)[..., :height, :width]


def _laid_out(pictures: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the places of patches of pictures to refer to."""
    below = right = 0
    for picture in pictures:
        rows, columns = (side // PATCH for side in picture.shape[-2:])
        goes_right = rows + below > columns + right
        found = places(rows, columns, picture.device)
        found[:, 0] = 1
        found[:, 2 if goes_right else 1] += right if goes_right else below
        yield found
        below = max(below, rows + (0 if goes_right else below))
        right = max(right, columns + (right if goes_right else 0))


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
