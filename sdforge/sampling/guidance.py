"""Classifier-free guidance: guesses with prompts and without one, made into one.

Ho & Salimans 2022, arXiv:2207.12598; several prompts at once: Liu et al. 2022, arXiv:2206.01714.
Where the guesses come from is `pipeline/prompt_denoiser.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def guide(
    conds: Sequence[Tensor], uncond: Tensor, weights: Sequence[float | Tensor], cfg_scale: float
) -> Tensor:
    """Return uncond + Σ weight · cfg_scale · (cond − uncond).

    Args:
        conds: guesses of the clean latents, one for each prompt.
        uncond: the guess without a prompt, or with the negative one.
        weights: of the prompts; a tensor (batch, 1, 1, 1) where pictures differ.
        cfg_scale: with one prompt of weight 1, 1 is cond alone and 0 uncond alone.
    """
    if len(conds) == 1 and not isinstance(weights[0], Tensor):
        return torch.lerp(uncond, conds[0], weights[0] * cfg_scale)
    result = uncond
    for cond, weight in zip(conds, weights, strict=True):
        result = result + (cond - uncond) * (weight * cfg_scale)
    return result


def cancels_uncond(weights: Sequence[float], cfg_scale: float) -> bool:
    """Whether `guide` gives the same for any uncond: the shares of the prompts add up to 1."""
    return sum(weight * cfg_scale for weight in weights) == 1.0


@dataclass(frozen=True, kw_only=True)
class UncondSkips:
    """In which calls the negative prompt is left out to save time, as A1111's options tell.

    Attributes:
        calls: of the denoiser in the whole pass.
        below_sigma: below this noise, in every second call ("Negative Guidance minimum sigma").
        every_call: there in every call.
        early_share: and in this first share of the calls; 0 is none.
    """

    calls: int
    below_sigma: float = 0.0
    every_call: bool = False
    early_share: float = 0.0

    def skips(self, call: int, sigma: float) -> bool:
        """Whether call number `call`, from 0, at noise `sigma` goes without."""
        if self.early_share > 0 and call / self.calls <= self.early_share:
            return True
        return sigma < self.below_sigma and (self.every_call or call % 2 == 1)
