"""Soft inpainting: masks whose grey means how much may change, at every step and in the result.

Behaviour and numbers are those of A1111's extension of that name; latents are (batch, channels,
height, width), masks (batch or 1, 1, height, width) with 1 where to repaint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Latents are compared over a neighbourhood of five, weighted by a Gaussian.
_RADIUS, _DEVIATION = 2, 1.5
_TINY = 1e-5


def mask_at(mask: Tensor, sigma: float, *, bias: float, strength: float) -> Tensor:
    """Return how far the guess counts at a noise: mask ^ (sigma ^ bias · strength).

    Early on what is grey is kept, later it is free; white is always free and black never.
    """
    return torch.pow(mask, (sigma**bias) * strength)


def blend_by_detail(source: Tensor, drawn: Tensor, mask: Tensor, *, boost: float) -> Tensor:
    """Return a blend of two latents that keeps the stronger detail where they meet.

    Directions are blended as usual; lengths are blended as their powers of `boost`, so that two
    that point apart do not cancel into something flat.
    """
    mixed = source * (1 - mask) + drawn * mask
    length = _length(mixed) + _TINY
    # Double precision: large exponents.
    wanted = _length(source) ** boost * (1 - mask) + _length(drawn) ** boost * mask
    return mixed * (wanted ** (1 / boost) / length).to(mixed.dtype)


def _length(latents: Tensor) -> Tensor:
    return torch.linalg.vector_norm(latents.double(), dim=1, keepdim=True)


def changed_mask(
    source: Tensor,
    drawn: Tensor,
    mask: Tensor,
    *,
    strength: float,
    influence: float,
    threshold: float,
    contrast: float,
) -> Tensor:
    """Return how far the result shows what was drawn, (batch, height, width) from 0 to 1.

    Where the latents hardly changed the source is shown, so nothing there is encoded and decoded
    in vain; how much is hardly, `threshold` says, and how sudden it is, `contrast`.

    Args:
        source: latents of the source.
        drawn: latents of the result.
        mask: see above.
        strength: as for `mask_at`.
        influence: how far the mask bears on the threshold, 0 to 1.
        threshold: distance of latents at which both show equally.
        contrast: of the transition.
    """
    distance = _length(drawn - source)[:, 0].float()
    # First what stands out, so that small changes count around; then without single outliers.
    distance = _mean_of_ranks(_mean_of_ranks(distance, 0.9, 1.0), 0.25, 0.75)
    bears = 1 - mask[:, 0].float().clamp(0, 1) ** (strength / 2)
    share = 0.5 * (1 - influence) + bears * influence
    half = (threshold * share / (1 + _TINY - share)).clamp(min=_TINY)
    kept = 1 / (1 + (distance / half) ** contrast)
    return 1 - kept**3 * (kept * (kept * 6 - 15) + 10)


def _mean_of_ranks(values: Tensor, low: float, high: float) -> Tensor:
    """Return for each place the weighted mean of its neighbours between two shares of their order.

    (batch, height, width) → the same; what lies outside does not count.
    """
    side = 2 * _RADIUS + 1
    offsets = torch.arange(side, dtype=values.dtype, device=values.device) - _RADIUS
    bell = torch.exp(-(offsets**2) / (2 * _DEVIATION**2))
    height, width = values.shape[-2:]

    def neighbours(of: Tensor) -> Tensor:
        return F.unfold(of[:, None], side, padding=_RADIUS)

    weights = neighbours(torch.ones_like(values)) * torch.outer(bell, bell).view(1, -1, 1)
    ordered, order = neighbours(values).sort(dim=1)
    weights = weights.gather(1, order)
    ends = weights.cumsum(dim=1) / weights.sum(dim=1, keepdim=True)
    starts = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], dim=1)
    parts = (ends.clamp(max=high) - starts.clamp(min=low)).clamp(min=0)
    mean = (parts * ordered).sum(dim=1) / parts.sum(dim=1).clamp(min=math.ulp(1.0))
    return mean.view(-1, height, width)
