"""Samplers that ask the denoiser once a step and remember nothing: Euler, Euler a, DDPM, LCM, TCD.

All of them follow dx/dsigma = (x − denoised) / sigma. A step along that line from `sigma` to
`sigma_next` mixes x and the clean guess in the ratio sigma_next / sigma: one `lerp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sdforge.sampling.flow import over_ratio
from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler
from sdforge.sampling.step_math import ancestral, churn


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
        on_step(StepInfo(index, steps, sigmas[index], sigmas[index + 1], x, denoised))
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
        step = ancestral(sigma, sigma_next, options)
        x = step.renoise(torch.lerp(denoised, x, step.down / sigma), noise, sigma, sigma_next)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


@sampler("DDPM")
@over_ratio
def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Draw each step from the posterior of training (Ho et al. 2020, arXiv:2006.11239).

    Over latents of this scale that is Euler a with an eta of 1, whatever was asked for.
    """
    return euler_ancestral(denoiser, x, sigmas, noise, on_step, replace(options, eta=1.0))


@sampler("LCM")
@over_ratio
def lcm(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Put new noise on each guess (Luo et al. 2023, arXiv:2310.04378); for LCM models."""
    steps = len(sigmas) - 1
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        x = denoised
        if sigma_next > 0:
            x = torch.add(denoised, noise(sigma, sigma_next), alpha=sigma_next)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


@sampler("TCD")
@over_ratio
def tcd(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Step to a share of the next timestep, then add noise (Zheng et al. 2024, arXiv:2402.19159).

    `eta` is the paper's gamma, above 1 as 1: 0 adds no noise, 1 is LCM. For TCD models.

    Raises:
        ValueError: `options.model`, whose timesteps are needed, is missing.
    """
    if options.model is None:
        raise ValueError("TCD needs the model's timesteps: pass them as SamplerOptions.model")
    steps = len(sigmas) - 1
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        down = sigma_next
        if options.eta > 0 and sigma_next > 0:
            # Rounded down as diffusers does; there timestep 0 still has some noise.
            share = (1 - min(options.eta, 1.0)) * options.model.sigma_to_t(sigma_next)
            down = min(options.model.t_to_sigma(math.floor(share)), sigma_next)
        x = torch.lerp(denoised, x, down / sigma)
        if down < sigma_next:
            x.add_(noise(sigma, sigma_next), alpha=math.sqrt(sigma_next**2 - down**2))
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x
