"""CFG++: step to the guided guess, but along the noise of the guess without the prompt.

Chung et al. 2024, arXiv:2406.08070. Its scale goes from 0 to 1; as in A1111's DDIM CFG++ the CFG
scale is divided by 12.5, so that the usual numbers keep their meaning. At a CFG scale of 1 there is
no second guess and these are the plain samplers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdforge.sampling.flow import over_ratio
from sdforge.sampling.multi_step import res_weight
from sdforge.sampling.sampler import (
    Denoiser,
    Noise,
    SamplerOptions,
    StepInfo,
    denoise_with_uncond,
    sampler,
)
from sdforge.sampling.step_math import ancestral

CFG_DIVISOR = 12.5


def guesses(denoiser: Denoiser, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the guess guided at the scale ÷ `CFG_DIVISOR`, and the one without the prompt."""
    guided, uncond = denoise_with_uncond(denoiser, x, sigma)
    return (uncond if guided is uncond else torch.lerp(uncond, guided, 1 / CFG_DIVISOR)), uncond


def cfg_pp_step(
    denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, options: SamplerOptions
) -> tuple[Tensor, Tensor]:
    """Return new latents at `sigma_next`, and the guided guess."""
    denoised, uncond = guesses(denoiser, x, sigma)
    signal, signal_next = (1 - sigma, 1 - sigma_next) if options.is_flow else (1.0, 1.0)
    ahead = torch.sub(x, uncond, alpha=signal).mul_(sigma_next / sigma)
    return ahead.add_(denoised, alpha=signal_next), denoised


@sampler("Euler CFG++")
def euler_cfg_pp(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Euler's steps from the guided guess, along the unguided noise."""
    steps = len(sigmas) - 1
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        x, denoised = cfg_pp_step(denoiser, x, sigma, sigma_next, options)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


@sampler("Euler a CFG++")
def euler_ancestral_cfg_pp(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """The same to below the next sigma, and new noise up to it."""
    steps = len(sigmas) - 1
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        step = ancestral(sigma, sigma_next, options, options.s_noise)
        x, denoised = cfg_pp_step(denoiser, x, sigma, step.down, options)
        x = step.renoise(x, noise, sigma, sigma_next)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


@sampler("DPM++ 2M CFG++")
@over_ratio
def dpmpp_2m_cfg_pp(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """DPM-Solver++(2M) in this manner, as ComfyUI writes it.

    The bend is the distance of the guided guess from the last unguided one.
    """
    steps = len(sigmas) - 1
    earlier: Tensor | None = None
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised, uncond = guesses(denoiser, x, sigma)
        ahead = torch.add(denoised, x - uncond, alpha=sigma_next / sigma)
        if earlier is not None and sigma_next > 0:
            ratio = math.log(sigmas[index - 1] / sigma) / math.log(sigma / sigma_next)
            ahead.add_(denoised - earlier, alpha=(1 - sigma_next / sigma) * 0.5 / ratio)
        x, earlier = ahead, uncond
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


@sampler("RES Multistep CFG++")
@over_ratio
def res_multistep_cfg_pp(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """The refined exponential solver in this manner, as ComfyUI writes it.

    What the guidance adds is laid on the latents, and the step taken with unguided guesses.
    """
    steps = len(sigmas) - 1
    earlier: Tensor | None = None
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised, uncond = guesses(denoiser, x, sigma)
        if earlier is None or sigma_next == 0:
            x = torch.add(denoised, x - uncond, alpha=sigma_next / sigma)
        else:
            weight = res_weight(sigmas[index - 1], sigma, sigma, sigma_next)
            guess = torch.lerp(uncond, earlier, weight)
            x = torch.lerp(guess, x + denoised - uncond, sigma_next / sigma)
        earlier = uncond
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x
