"""Samplers that remember earlier guesses: DPM++ 2M, DPM++ 2M SDE, LMS.

In lambda = −log sigma, the step of DPM-Solver++ mixes x and a clean guess in the ratio
sigma_next / sigma; the second order comes from a guess that is extrapolated from the last two
(Lu et al. 2022, arXiv:2211.01095).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler

_LMS_ORDER = 4
# Gauss–Legendre points on −1…1: two integrate cubics exactly, which order 4 needs.
_GAUSS_POINTS = (-1 / math.sqrt(3), 1 / math.sqrt(3))


@sampler("DPM++ 2M")
def dpmpp_2m(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """DPM-Solver++(2M); the first step and the one to 0 are of first order."""
    steps = len(sigmas) - 1
    earlier: Tensor | None = None
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        guess = denoised
        if earlier is not None and sigma_next > 0:
            ratio = math.log(sigmas[index - 1] / sigma) / math.log(sigma / sigma_next)
            guess = torch.lerp(earlier, denoised, 1 + 0.5 / ratio)
        x = torch.lerp(guess, x, sigma_next / sigma)
        earlier = denoised
        on_step(StepInfo(index, steps, sigma, x, denoised))
    return x


@sampler("DPM++ 2M SDE")
def dpmpp_2m_sde(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Stochastic DPM-Solver++(2M) with the midpoint rule and Brownian noise (k-diffusion)."""
    steps = len(sigmas) - 1
    earlier: Tensor | None = None
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            width = math.log(sigma / sigma_next)
            guess = denoised
            if earlier is not None:
                ratio = math.log(sigmas[index - 1] / sigma) / width
                guess = torch.lerp(earlier, denoised, 1 + 0.5 / ratio)
            x = torch.lerp(guess, x, math.exp(-width * (1 + options.eta)))
            if options.eta > 0:
                share = -math.expm1(-2 * options.eta * width)
                x.add_(
                    noise(sigma, sigma_next),
                    alpha=sigma_next * math.sqrt(share) * options.s_noise,
                )
        earlier = denoised
        on_step(StepInfo(index, steps, sigma, x, denoised))
    return x


@sampler("LMS")
def lms(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Linear multistep: a cubic through the last four slopes, integrated over the step."""
    steps = len(sigmas) - 1
    residuals: deque[Tensor] = deque(maxlen=_LMS_ORDER)
    for index in range(steps):
        sigma = sigmas[index]
        denoised = denoiser(x, sigma)
        residuals.appendleft(x - denoised)
        known = sigmas[index::-1][: len(residuals)]
        weights = _multistep_weights(known, sigmas[index + 1])
        x = torch.add(x, residuals[0], alpha=weights[0] / sigma)
        for place in range(1, len(residuals)):
            x.add_(residuals[place], alpha=weights[place] / known[place])
        on_step(StepInfo(index, steps, sigma, x, denoised))
    return x


def _multistep_weights(known: Sequence[float], sigma_next: float) -> list[float]:
    """Weights of the slopes at the `known` sigmas, latest first, in a step to `sigma_next`.

    Integrals of Lagrange's basis polynomials from `known[0]` to `sigma_next`.
    """
    half, centre = (sigma_next - known[0]) / 2, (sigma_next + known[0]) / 2
    return [
        half
        * sum(
            math.prod(
                (centre + half * point - other) / (own - other)
                for place, other in enumerate(known)
                if place != own_place
            )
            for point in _GAUSS_POINTS
        )
        for own_place, own in enumerate(known)
    ]
