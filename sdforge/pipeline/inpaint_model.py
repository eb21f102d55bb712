"""What inpainting checkpoints see beside the noisy latents: the mask, and the picture without it.

Their networks have nine input channels: four of noise, one of the mask, four of latents. The loader
refuses such checkpoints so far; whoever lets them in gives them this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def inpainting_channels(
    pixels: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor], *, weight: float = 1.0
) -> Tensor:
    """Return the five further channels, (n, 5, height/8, width/8): mask, then latents.

    Args:
        pixels: pictures (n, 3, height, width) from 0 to 1; all grey where nothing is given.
        mask: (n or 1, 1, height, width), above a half where to repaint.
        encode: pixels → latents, a bundle's `vae.encode`.
        weight: how far the masked part is hidden from the network, 0 to 1 (A1111's
            `inpainting_mask_weight`); hidden is middle grey.
    """
    hard = (mask > 0.5).to(pixels).expand(len(pixels), -1, -1, -1)
    hidden = torch.lerp(pixels, torch.full_like(pixels, 0.5), hard * weight)
    latents = encode(hidden)
    small = F.interpolate(hard, size=latents.shape[-2:], mode="nearest").to(latents)
    return torch.cat([small, latents], dim=1)
