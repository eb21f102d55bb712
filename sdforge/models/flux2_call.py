"""How Flux.2's transformer is called: a patch for each latent pixel, four places for each token.

A token's places are time, row, column and, for text, which word it is. Pictures to refer to stand
at other times than the one that is drawn.
"""

from __future__ import annotations

import torch
from torch import nn

from sdforge.models.denoiser import Conditioning

_REFERENCE_TIME = 10


def call_flux2(
    module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
) -> torch.Tensor:
    """Return the velocity for latents (rows, channels, height, width).

    Patches of pictures to refer to lie behind those that are drawn.
    """
    rows, columns = x.shape[-2:]
    text, told = conditioning.hidden, conditioning.numbers
    seen, where = [_patches(x)], [_places(rows, columns, 0, x.device)]
    for number, shown in enumerate(conditioning.references, start=1):
        seen.append(_patches(shown.to(x)))
        tall, wide = shown.shape[-2:]
        where.append(_places(tall, wide, _REFERENCE_TIME * number, x.device))
    words = torch.zeros(text.shape[1], 4, device=x.device)
    words[:, 3] = torch.arange(text.shape[1], device=x.device)
    (answer,) = module(
        hidden_states=torch.cat(seen, dim=1),
        encoder_hidden_states=text,
        timestep=torch.full((len(x),), sigma, device=x.device),
        img_ids=torch.cat(where),
        txt_ids=words,
        guidance=None if told is None else told[:, 0],
        return_dict=False,
    )
    drawn = answer[:, : rows * columns]
    velocity: torch.Tensor = drawn.transpose(1, 2).unflatten(2, (rows, columns))
    return velocity


def _patches(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def _places(rows: int, columns: int, time: int, device: torch.device) -> torch.Tensor:
    grid = torch.zeros(rows, columns, 4, device=device)
    grid[..., 0] = time
    grid[..., 1] = torch.arange(rows, device=device)[:, None]
    grid[..., 2] = torch.arange(columns, device=device)[None, :]
    return grid.view(-1, 4)
