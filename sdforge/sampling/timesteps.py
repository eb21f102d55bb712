"""A1111's samplers of timesteps: DDIM, DDIM CFG++, PLMS (UniPC has a file of its own).

They take the sigmas of `make_sigmas(..., timesteps=True)`. Like A1111 they stop at the last
timestep instead of going on to 0, one denoiser call less than sigmas suggest, and return latents in
that timestep's variance-preserving scale: `x / sqrt(1 + sigma²)`, with sigma about 0.04. On flow
models, which A1111 does not run with them, they go to 0.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdforge.sampling.cfg_pp import cfg_pp_step
from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler
from sdforge.sampling.slopes import EVEN_WEIGHTS
from sdforge.sampling.step_math import ancestral


def timestep_path(sigmas: Sequence[float], options: SamplerOptions) -> Sequence[float]:
    """Return the sigmas that are walked: without the 0, but on flow models."""
    leaves_noise = len(sigmas) > 2 and sigmas[-1] == 0 and not options.is_flow
    return sigmas[:-1] if leaves_noise else sigmas


def in_training_scale(x: Tensor, sigma: float, options: SamplerOptions) -> Tensor:
    """Return latents that end at `sigma` in the scale of training."""
    return x if options.is_flow else x / math.sqrt(1 + sigma**2)


@sampler("DDIM")
def ddim(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Walk the model's timesteps (Song et al. 2020, arXiv:2010.02502)."""
    path = timestep_path(sigmas, options)
    steps = len(path) - 1
    for index in range(steps):
        sigma, sigma_next = path[index], path[index + 1]
        denoised = denoiser(x, sigma)
        # Over latents of variance 1 + sigma², equation 16 of the paper is the ancestral rule.
        step = ancestral(sigma, sigma_next, options)
        x = step.renoise(torch.lerp(denoised, x, step.down / sigma), noise, sigma, sigma_next)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return in_training_scale(x, path[-1], options)


@sampler("DDIM CFG++")
def ddim_cfg_pp(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """DDIM along the noise of the guess without the prompt (arXiv:2406.08070)."""
    path = timestep_path(sigmas, options)
    steps = len(path) - 1
    for index in range(steps):
        sigma, sigma_next = path[index], path[index + 1]
        step = ancestral(sigma, sigma_next, options)
        x, denoised = cfg_pp_step(denoiser, x, sigma, step.down, options)
        x = step.renoise(x, noise, sigma, sigma_next)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return in_training_scale(x, path[-1], options)


@sampler("PLMS")
def plms(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Pseudo linear multistep over the model's timesteps (Liu et al. 2022, arXiv:2202.09778).

    The first step asks the denoiser twice; from the fourth on, four slopes are weighed.
    """
    path = timestep_path(sigmas, options)
    steps = len(path) - 1
    slopes: deque[Tensor] = deque(maxlen=len(EVEN_WEIGHTS))
    for index in range(steps):
        sigma, sigma_next = path[index], path[index + 1]
        denoised = denoiser(x, sigma)
        slopes.appendleft((x - denoised).div_(sigma))
        width = sigma_next - sigma
        if index == 0 and sigma_next > 0:
            ahead = torch.add(x, slopes[0], alpha=width)
            there = (ahead - denoiser(ahead, sigma_next)).div_(sigma_next)
            x = torch.add(x, there.add_(slopes[0]), alpha=width / 2)
        else:
            for place, weight in enumerate(EVEN_WEIGHTS[len(slopes) - 1]):
                x = torch.add(x, slopes[place], alpha=width * weight)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return in_training_scale(x, path[-1], options)
