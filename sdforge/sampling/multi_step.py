"""Samplers that extrapolate the clean guess from earlier ones: DPM++ 2M and its kin, RES, ER SDE.

In lambda = −log sigma, the step of an exponential integrator mixes x and a clean guess in the ratio
sigma_next / sigma; higher orders come from a guess that is extrapolated from the last ones
(DPM-Solver++, Lu et al. 2022, arXiv:2211.01095).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sdforge.sampling.flow import over_ratio
from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler
from sdforge.sampling.step_math import ancestral

_ER_POINTS = 200


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
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


@sampler("DPM++ 2M SDE")
@over_ratio
def dpmpp_2m_sde(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Stochastic DPM-Solver++(2M) with the midpoint rule and Brownian noise (k-diffusion)."""
    return _stochastic_2m(denoiser, x, sigmas, noise, on_step, options, is_heun=False)


@sampler("DPM++ 2M SDE Heun")
@over_ratio
def dpmpp_2m_sde_heun(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """The same with Heun's weight of the bend: the exact integral instead of its midpoint."""
    return _stochastic_2m(denoiser, x, sigmas, noise, on_step, options, is_heun=True)


def _stochastic_2m(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
    *,
    is_heun: bool,
) -> Tensor:
    steps = len(sigmas) - 1
    earlier: Tensor | None = None
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            width = math.log(sigma / sigma_next)
            total = width * (1 + options.eta)
            guess = denoised
            if earlier is not None:
                ratio = math.log(sigmas[index - 1] / sigma) / width
                bend = _phi_2(total) / -math.expm1(-total) if is_heun else 0.5
                guess = torch.lerp(earlier, denoised, 1 + bend / ratio)
            x = torch.lerp(guess, x, math.exp(-total))
            _add_noise(x, noise, sigma, sigma_next, options)
        earlier = denoised
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


@sampler("DPM++ 3M SDE")
@over_ratio
def dpmpp_3m_sde(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """The same through the last three guesses (k-diffusion)."""
    steps = len(sigmas) - 1
    guesses: list[Tensor] = []
    widths: list[float] = []
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            width = math.log(sigma / sigma_next)
            total = width * (1 + options.eta)
            x = torch.lerp(denoised, x, math.exp(-total))
            if guesses:
                ratio = widths[0] / width
                bend = (denoised - guesses[0]).div_(ratio)
                if len(guesses) > 1:
                    older = widths[1] / width
                    change = torch.sub(bend, guesses[0] - guesses[1], alpha=1 / older)
                    change.div_(ratio + older)
                    bend.add_(change, alpha=ratio)
                    x.sub_(change, alpha=_phi_2(total) / total - 0.5)
                x.add_(bend, alpha=_phi_2(total))
            _add_noise(x, noise, sigma, sigma_next, options)
            guesses, widths = [denoised, *guesses[:1]], [width, *widths[:1]]
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


def _phi_2(width: float) -> float:
    """Weight of a guess that changes by 1 over a step of this width, in log sigma."""
    return math.expm1(-width) / width + 1


def _add_noise(
    x: Tensor, noise: Noise, sigma: float, sigma_next: float, options: SamplerOptions
) -> None:
    """Add what the Langevin part of a step at `eta` adds; nothing at 0."""
    if options.eta > 0:
        share = -math.expm1(-2 * options.eta * math.log(sigma / sigma_next))
        x.add_(noise(sigma, sigma_next), alpha=sigma_next * math.sqrt(share) * options.s_noise)


@sampler("RES Multistep")
def res_multistep(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Refined exponential solver, multistep of order 2 (Zhang et al. 2023, arXiv:2308.02157)."""
    return _res_multistep(denoiser, x, sigmas, noise, on_step, options, eta=0.0)


@sampler("RES Multistep a")
def res_multistep_ancestral(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """The same to below the next sigma, and new noise up to it."""
    return _res_multistep(denoiser, x, sigmas, noise, on_step, options, eta=options.eta)


def _res_multistep(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
    *,
    eta: float,
) -> Tensor:
    steps = len(sigmas) - 1
    options = replace(options, eta=eta)
    earlier: Tensor | None = None
    earlier_down = sigmas[0]
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        step = ancestral(sigma, sigma_next, options, options.s_noise)
        guess = denoised
        if earlier is not None and step.down > 0:
            guess = torch.lerp(
                denoised, earlier, res_weight(sigmas[index - 1], earlier_down, sigma, step.down)
            )
        x = step.renoise(torch.lerp(guess, x, step.down / sigma), noise, sigma, sigma_next)
        earlier, earlier_down = denoised, step.down
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


def res_weight(earlier_sigma: float, earlier_down: float, sigma: float, down: float) -> float:
    """Return the share of the earlier guess in a step from `sigma` to `down`; below 0.

    `earlier_down` is where the earlier step arrived before new noise: ComfyUI measures the earlier
    guess's distance from there, which is from `sigma` where nothing was added.
    """
    width = math.log(sigma / down)
    distance = math.log(earlier_down / earlier_sigma) / width
    phi_1 = -math.expm1(-width) / width
    phi_2 = (1 - phi_1) / width
    return phi_2 / distance / phi_1


@sampler("ER SDE")
@over_ratio
def er_sde(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Extended reverse-time SDE solver of order 3 (Cui et al. 2023, arXiv:2309.06169).

    With the paper's noise scale phi(sigma) = sigma·(exp(sigma^0.3) + 10); `eta` has no effect.
    """
    steps = len(sigmas) - 1
    earlier: Tensor | None = None
    earlier_slope: Tensor | None = None
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            scale_next = _er_scale(sigma_next)
            kept = scale_next / _er_scale(sigma)
            x = torch.lerp(denoised, x, kept)
            width = sigma_next - sigma
            if earlier is not None:
                slope = (denoised - earlier).div_(sigma - sigmas[index - 1])
                first, second = _er_integrals(sigma, sigma_next)
                x.add_(slope, alpha=width + first * scale_next)
                if earlier_slope is not None:
                    curve = (slope - earlier_slope).div_((sigma - sigmas[index - 2]) / 2)
                    x.add_(curve, alpha=width**2 / 2 + second * scale_next)
                earlier_slope = slope
            up = math.sqrt(max(sigma_next**2 - (sigma * kept) ** 2, 0.0)) * options.s_noise
            if up > 0:
                x.add_(noise(sigma, sigma_next), alpha=up)
        earlier = denoised
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


def _er_scale(sigma: float) -> float:
    return sigma * (math.exp(sigma**0.3) + 10.0)


def _er_integrals(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Integrals of 1/phi and (s − sigma)/phi from `sigma_next` to `sigma`.

    By 200 left-hand rectangles, as the authors' code and all since.
    """
    size = (sigma - sigma_next) / _ER_POINTS
    places = [sigma_next + index * size for index in range(_ER_POINTS)]
    weights = [size / _er_scale(place) for place in places]
    return sum(weights), sum(
        (place - sigma) * weight for place, weight in zip(places, weights, strict=True)
    )
