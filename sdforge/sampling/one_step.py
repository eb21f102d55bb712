"""Samplers that look at one step alone: Euler, Euler a, Heun, DDIM, DPM++ SDE.

All of them follow dx/dsigma = (x − denoised) / sigma. A step along that line from `sigma` to
`sigma_next` mixes x and the clean guess in the ratio sigma_next / sigma: one `lerp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler

# Above this the churned noise would exceed what was there (Karras et al. 2022, algorithm 2).
_LARGEST_GAMMA = math.sqrt(2) - 1


@sampler("Euler")
def euler(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Follow the line of each step (Karras et al. 2022, arXiv:2206.00364, without the second half).

    With `s_churn` some noise is added before each step.
    """
    steps = len(sigmas) - 1
    for index in range(steps):
        x, sigma = churn(x, index, sigmas, noise, options)
        denoised = denoiser(x, sigma)
        x = torch.lerp(denoised, x, sigmas[index + 1] / sigma)
        on_step(StepInfo(index, steps, sigmas[index], x, denoised))
    return x


@sampler("Euler a")
def euler_ancestral(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Step below the next sigma and add new noise up to it.

    `s_noise` has no effect: A1111 does not offer it for this sampler.
    """
    steps = len(sigmas) - 1
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        sigma_down, sigma_up = ancestral_step(sigma, sigma_next, options.eta)
        x = torch.lerp(denoised, x, sigma_down / sigma)
        if sigma_up > 0:
            x.add_(noise(sigma, sigma_next), alpha=sigma_up)
        on_step(StepInfo(index, steps, sigma, x, denoised))
    return x


@sampler("Heun")
def heun(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Step along the mean of the slopes at both ends (Karras et al. 2022, algorithm 2)."""
    steps = len(sigmas) - 1
    for index in range(steps):
        x, sigma = churn(x, index, sigmas, noise, options)
        sigma_next = sigmas[index + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            residual = x - denoised
            width = sigma_next - sigma
            ahead = torch.add(x, residual, alpha=width / sigma)
            residual_ahead = ahead - denoiser(ahead, sigma_next)
            x = torch.add(x, residual, alpha=width / 2 / sigma)
            x.add_(residual_ahead, alpha=width / 2 / sigma_next)
        on_step(StepInfo(index, steps, sigmas[index], x, denoised))
    return x


@sampler("DDIM")
def ddim(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Walk the model's timesteps as A1111 does (Song et al. 2020, arXiv:2010.02502).

    Takes the sigmas of the "DDIM" schedule. Like A1111 it stops at the last timestep instead of
    going on to 0, one denoiser call less than sigmas suggest, and returns latents in that
    timestep's variance-preserving scale: `x / sqrt(1 + sigma²)`, with sigma about 0.04.
    """
    path = sigmas[:-1] if len(sigmas) > 2 and sigmas[-1] == 0 else sigmas
    steps = len(path) - 1
    for index in range(steps):
        sigma, sigma_next = path[index], path[index + 1]
        denoised = denoiser(x, sigma)
        # Over latents of variance 1 + sigma², equation 16 of the paper is the ancestral rule.
        sigma_down, sigma_up = ancestral_step(sigma, sigma_next, options.eta)
        x = torch.lerp(denoised, x, sigma_down / sigma)
        if sigma_up > 0:
            x.add_(noise(sigma, sigma_next), alpha=sigma_up)
        on_step(StepInfo(index, steps, sigma, x, denoised))
    return x / math.sqrt(1 + path[-1] ** 2)


@sampler("DPM++ SDE")
def dpmpp_sde(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Ask the denoiser half-way, in log sigma, with the noise of a Brownian path on both legs.

    Stochastic DPM-Solver++ of second order (Lu et al. 2022, arXiv:2211.01095; k-diffusion).
    """
    steps = len(sigmas) - 1
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            begin, middle, end = _halving(sigma, sigma_next)
            down, up = ancestral_step(sigma, middle, options.eta)
            halfway = torch.lerp(denoised, x, down / sigma)
            if up > 0:
                halfway.add_(noise(begin, middle), alpha=up * options.s_noise)
            guess = denoiser(halfway, middle)
            down, up = ancestral_step(sigma, sigma_next, options.eta)
            x = torch.lerp(guess, x, down / sigma)
            if up > 0:
                x.add_(noise(begin, end), alpha=up * options.s_noise)
        on_step(StepInfo(index, steps, sigma, x, denoised))
    return x


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
    gamma = min(options.s_churn / (len(sigmas) - 1), _LARGEST_GAMMA)
    churned = sigma * (1 + gamma)
    return torch.add(x, fresh, alpha=options.s_noise * math.sqrt(churned**2 - sigma**2)), churned


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Return the sigma to step down to, and that of the noise to add so as to reach `sigma_next`.

    k-diffusion's rule: the variance of the noise added is eta² times that of a DDPM step.
    """
    if eta == 0 or sigma_next == 0:
        return sigma_next, 0.0
    ratio = math.sqrt(max(sigma**2 - sigma_next**2, 0.0)) / sigma
    sigma_up = min(sigma_next, eta * sigma_next * ratio)
    return math.sqrt(sigma_next**2 - sigma_up**2), sigma_up


def _halving(sigma: float, sigma_next: float) -> tuple[float, float, float]:
    """Return where a step begins, its middle in log sigma, and where it ends.

    Computed in single precision and through the logarithm, as k-diffusion does: a Brownian path
    is so rough that the last digit of a sigma shows in the picture.
    """
    begin = -torch.tensor(sigma, dtype=torch.float32).log()
    end = -torch.tensor(sigma_next, dtype=torch.float32).log()
    middle = begin + (end - begin) * 0.5
    return (-begin).exp().item(), (-middle).exp().item(), (-end).exp().item()
