"""Classifier-free guidance: two guesses, with and without the prompt, made into one.

Ho & Salimans 2022, arXiv:2207.12598.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdforge.sampling.sampler import Denoiser


def guided(
    predict_pair: Callable[[Tensor, float], tuple[Tensor, Tensor]], cfg_scale: float
) -> Denoiser:
    """Return the denoiser that goes from uncond to cond and `cfg_scale` times as far.

    Args:
        predict_pair: guesses of the clean latents, `(cond, uncond)`.
        cfg_scale: 1 is cond alone, 0 uncond alone.
    """

    def denoise(x: Tensor, sigma: float) -> Tensor:
        cond, uncond = predict_pair(x, sigma)
        return torch.lerp(uncond, cond, cfg_scale)

    return denoise
