"""Samplers that ask the denoiser several times a step: Heun, HeunPP2, DPM2, DPM2 a, DPM++ 2S a, …

The second guess, at the step's end or its middle, tells how the slope bends. `s_churn` is Karras
et al.'s (2022, arXiv:2206.00364, algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdforge.sampling.flow import over_ratio
from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler
from sdforge.sampling.step_math import (
    LARGEST_FLOW_SIGMA,
    ancestral,
    ancestral_step,
    churn,
    from_ratio,
    halving,
    to_ratio,
)


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
        x = denoised if sigma_next == 0 else heun_step(denoiser, x, denoised, sigma, sigma_next)
        on_step(StepInfo(index, steps, sigmas[index], sigma_next, x, denoised))
    return x


def heun_step(
    denoiser: Denoiser, x: Tensor, denoised: Tensor, sigma: float, sigma_next: float
) -> Tensor:
    """Return latents at a `sigma_next` above 0, by the mean of the slopes here and there."""
    residual = x - denoised
    width = sigma_next - sigma
    ahead = torch.add(x, residual, alpha=width / sigma)
    residual_ahead = ahead - denoiser(ahead, sigma_next)
    x = torch.add(x, residual, alpha=width / 2 / sigma)
    return x.add_(residual_ahead, alpha=width / 2 / sigma_next)


@sampler("HeunPP2")
def heunpp2(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Weigh the slopes here and up to two sigmas ahead by those sigmas (Heun++).

    The weights' common divisor is the first sigma, so they shift to the present slope as noise
    falls. Three denoiser calls a step, two in the last but one, one in the last; a schedule that
    ends above 0 is treated alike.
    """
    steps = len(sigmas) - 1
    for index in range(steps):
        x, sigma = churn(x, index, sigmas, noise, options)
        sigma_next = sigmas[index + 1]
        denoised = denoiser(x, sigma)
        first = (x - denoised).div_(sigma)
        ahead = torch.add(x, first, alpha=sigma_next - sigma)
        if index < steps - 1:
            looks = min(steps - index, 3)
            slope, rest, place = torch.zeros_like(x), 1.0, ahead
            for look in range(1, looks):
                there = sigmas[index + look]
                bent = (place - denoiser(place, there)).div_(there)
                share = there / (looks * sigmas[0])
                slope.add_(bent, alpha=share)
                rest -= share
                if look + 1 < looks:
                    place = torch.add(place, bent, alpha=sigmas[index + look + 1] - there)
            ahead = torch.add(x, slope.add_(first, alpha=rest), alpha=sigma_next - sigma)
        x = ahead
        on_step(StepInfo(index, steps, sigmas[index], sigma_next, x, denoised))
    return x


@sampler("DPM2")
def dpm_2(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Take the slope in the middle, in log sigma (DPM-Solver-2, Lu et al. 2022, arXiv:2206.00927).

    k-diffusion's form of it: straight lines in sigma, with `s_churn`.
    """
    steps = len(sigmas) - 1
    for index in range(steps):
        x, sigma = churn(x, index, sigmas, noise, options)
        sigma_next = sigmas[index + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            x = _midpoint_step(denoiser, x, denoised, sigma, sigma_next)
        on_step(StepInfo(index, steps, sigmas[index], sigma_next, x, denoised))
    return x


@sampler("DPM2 a")
def dpm_2_ancestral(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """DPM2 to below the next sigma, and new noise up to it."""
    steps = len(sigmas) - 1
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        step = ancestral(sigma, sigma_next, options, options.s_noise)
        if step.down == 0:
            x = denoised
        else:
            x = _midpoint_step(denoiser, x, denoised, sigma, step.down)
        if sigma_next > 0:
            x = step.renoise(x, noise, sigma, sigma_next)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


def _midpoint_step(
    denoiser: Denoiser, x: Tensor, denoised: Tensor, sigma: float, sigma_next: float
) -> Tensor:
    middle = math.sqrt(sigma * sigma_next)
    halfway = torch.lerp(denoised, x, middle / sigma)
    residual = halfway - denoiser(halfway, middle)
    return torch.add(x, residual, alpha=(sigma_next - sigma) / middle)


@sampler("DPM++ 2S a")
def dpmpp_2s_ancestral(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """DPM-Solver++(2S) to below the next sigma, and new noise up to it (arXiv:2211.01095).

    On flow models the middle is that of the log ratio of noise to signal, as ComfyUI has it.
    """
    steps = len(sigmas) - 1
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        step = ancestral(sigma, sigma_next, options, options.s_noise)
        guess = denoised
        if step.down > 0:
            middle = _logarithmic_middle(sigma, step.down, options)
            guess = denoiser(torch.lerp(denoised, x, middle / sigma), middle)
        x = step.renoise(torch.lerp(guess, x, step.down / sigma), noise, sigma, sigma_next)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


def _logarithmic_middle(sigma: float, sigma_next: float, options: SamplerOptions) -> float:
    if not options.is_flow:
        return math.sqrt(sigma * sigma_next)
    if sigma > LARGEST_FLOW_SIGMA:
        return LARGEST_FLOW_SIGMA
    return from_ratio(math.sqrt(to_ratio(sigma) * to_ratio(sigma_next)))


@sampler("DPM++ SDE")
@over_ratio
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
            begin, middle, end = halving(sigma, sigma_next)
            down, up = ancestral_step(sigma, middle, options.eta)
            halfway = torch.lerp(denoised, x, down / sigma)
            if up > 0:
                halfway.add_(noise(begin, middle), alpha=up * options.s_noise)
            guess = denoiser(halfway, middle)
            down, up = ancestral_step(sigma, sigma_next, options.eta)
            x = torch.lerp(guess, x, down / sigma)
            if up > 0:
                x.add_(noise(begin, end), alpha=up * options.s_noise)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x
