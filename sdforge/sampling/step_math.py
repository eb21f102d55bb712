"""Arithmetic of one step that several samplers share: how far down, how much noise back up.

On Python floats, but for what must equal k-diffusion's single precision. Flow latents
((1 − sigma)·clean + sigma·noise, `SamplerOptions.is_flow`) have rules of their own here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdforge.sampling.sampler import Noise, SamplerOptions

# Above this the churned noise would exceed what was there (Karras et al. 2022, algorithm 2).
_LARGEST_GAMMA = math.sqrt(2) - 1
# Pure noise has no signal-to-noise ratio; flow samplers that need one start this far below 1.
LARGEST_FLOW_SIGMA = 1 - 1e-4


@dataclass(frozen=True, slots=True)
class Ancestral:
    """Step to `down`, scale the latents by `keep` and add noise of deviation `up`."""

    down: float
    keep: float
    up: float

    def renoise(self, x: Tensor, noise: Noise, sigma: float, sigma_next: float) -> Tensor:
        """Return latents at `sigma_next` from a fresh tensor at `down`, which is overwritten."""
        if self.up <= 0:
            return x
        if self.keep != 1:
            x = x.mul_(self.keep)
        return x.add_(noise(sigma, sigma_next), alpha=self.up)


def ancestral(
    sigma: float, sigma_next: float, options: SamplerOptions, s_noise: float = 1.0
) -> Ancestral:
    """Return how an ancestral sampler goes from `sigma` to `sigma_next` at `options.eta`."""
    if not options.is_flow:
        down, up = ancestral_step(sigma, sigma_next, options.eta)
        return Ancestral(down, 1.0, up * s_noise)
    if options.eta == 0 or sigma_next == 0:
        return Ancestral(sigma_next, 1.0, 0.0)
    # Rectified flow, as ComfyUI's "RF" samplers: eta is the share of the way on from sigma_next,
    # and the latents shrink so that signal and noise add up to 1 again.
    down = sigma_next * max(1 + (sigma_next / sigma - 1) * options.eta, 0.0)
    keep = (1 - sigma_next) / (1 - down)
    return Ancestral(down, keep, math.sqrt(max(sigma_next**2 - (down * keep) ** 2, 0)) * s_noise)


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Return the sigma to step down to, and that of the noise to add so as to reach `sigma_next`.

    k-diffusion's rule: the variance of the noise added is eta² times that of a DDPM step.
    """
    if eta == 0 or sigma_next == 0:
        return sigma_next, 0.0
    ratio = math.sqrt(max(sigma**2 - sigma_next**2, 0.0)) / sigma
    sigma_up = min(sigma_next, eta * sigma_next * ratio)
    return math.sqrt(sigma_next**2 - sigma_up**2), sigma_up


def churn(
    x: Tensor, index: int, sigmas: Sequence[float], noise: Noise, options: SamplerOptions
) -> tuple[Tensor, float]:
    """Return latents and sigma of step `index` after noise was added for `s_churn`."""
    sigma = sigmas[index]
    if options.s_churn <= 0:
        return x, sigma
    # Drawn in every step, used or not, as in k-diffusion: the draws that follow depend on it.
    fresh = noise(sigma, sigmas[index + 1])
    if not options.s_tmin <= sigma <= options.s_tmax:
        return x, sigma
    factor = 1 + min(options.s_churn / (len(sigmas) - 1), _LARGEST_GAMMA)
    if options.is_flow:
        return _churned_flow(x, sigma, factor, fresh, options.s_noise)
    churned = sigma * factor
    return torch.add(x, fresh, alpha=options.s_noise * math.sqrt(churned**2 - sigma**2)), churned


def _churned_flow(
    x: Tensor, sigma: float, factor: float, fresh: Tensor, s_noise: float
) -> tuple[Tensor, float]:
    """Raise the ratio of noise to signal by `factor`; pure noise stays what it is."""
    if sigma >= LARGEST_FLOW_SIGMA:
        return x, sigma
    ratio = sigma / (1 - sigma)
    churned = from_ratio(ratio * factor)
    added = (1 - churned) * ratio * math.sqrt(factor**2 - 1) * s_noise
    return torch.add(x * ((1 - churned) / (1 - sigma)), fresh, alpha=added), churned


def to_ratio(sigma: float) -> float:
    """Return noise over signal of a flow's sigma, that of pure noise being finite."""
    sigma = min(sigma, LARGEST_FLOW_SIGMA)
    return sigma / (1 - sigma)


def from_ratio(ratio: float) -> float:
    """Return the flow's sigma of a ratio of noise to signal."""
    return ratio / (1 + ratio)


def halving(sigma: float, sigma_next: float) -> tuple[float, float, float]:
    """Return where a step begins, its middle in log sigma, and where it ends.

    Computed in single precision and through the logarithm, as k-diffusion does: a Brownian path
    is so rough that the last digit of a sigma shows in the picture.
    """
    begin = -torch.tensor(sigma, dtype=torch.float32).log()
    end = -torch.tensor(sigma_next, dtype=torch.float32).log()
    middle = begin + (end - begin) * 0.5
    return (-begin).exp().item(), (-middle).exp().item(), (-end).exp().item()
