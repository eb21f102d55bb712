"""Samplers that remember earlier slopes: LMS, IPNDM, IPNDM_V, DEIS, Gradient Estimation.

A slope is (x − denoised) / sigma. A polynomial through the last few, integrated over the step,
gives each its weight; these samplers differ in what the polynomial is of.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler

# Adams and Bashforth's weights of the slopes, latest first, for even steps.
EVEN_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
_DEIS_ORDER = 3
# Gauss–Legendre points on −1…1 and their weights: two integrate cubics exactly.
_TWO_POINTS = ((-1 / math.sqrt(3), 1.0), (1 / math.sqrt(3), 1.0))
# DEIS integrates polynomials of another variable than sigma; five are exact to single precision.
_FIVE_POINTS = (
    (0.0, 128 / 225),
    *((sign * math.sqrt(5 - 2 * math.sqrt(10 / 7)) / 3, (322 + 13 * math.sqrt(70)) / 900)
      for sign in (-1, 1)),
    *((sign * math.sqrt(5 + 2 * math.sqrt(10 / 7)) / 3, (322 - 13 * math.sqrt(70)) / 900)
      for sign in (-1, 1)),
)  # fmt: skip
# Gradient Estimation goes this many times as far from the last slope to the present one.
_GRADIENT_GAMMA = 2.0

# Weights of the slopes, latest first, in a step from `sigmas[index]` to `sigmas[index + 1]`: their
# sum is 1.
Weights = Callable[[Sequence[float], int], Sequence[float]]


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

    def weights(sigmas: Sequence[float], index: int) -> list[float]:
        known = sigmas[max(index - 3, 0) : index + 1][::-1]
        return _lagrange_weights(known, sigmas[index], sigmas[index + 1], _TWO_POINTS)

    return _walk(denoiser, x, sigmas, on_step, weights, ends_with_guess=False)


@sampler("IPNDM")
def ipndm(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Adams–Bashforth of order 4 as if all steps were of one width (arXiv:2204.13902)."""
    return _walk(denoiser, x, sigmas, on_step, lambda _, index: EVEN_WEIGHTS[min(index, 3)])


@sampler("IPNDM_V")
def ipndm_v(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """IPNDM with weights for the true widths of steps, as diff-sampler wrote them."""
    return _walk(denoiser, x, sigmas, on_step, _ipndm_v_weights)


@sampler("DEIS")
def deis(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Exponential integrator with polynomials of order 3 in time (tAB-DEIS, arXiv:2204.13902).

    Time is that of a variance-preserving process from sigma 0.002 to 80, as in diff-sampler.
    """

    def weights(sigmas: Sequence[float], index: int) -> list[float]:
        known = sigmas[max(index - _DEIS_ORDER + 1, 0) : index + 1][::-1]
        return _lagrange_weights(
            known, sigmas[index], sigmas[index + 1], _FIVE_POINTS, _variance_preserving_time
        )

    return _walk(denoiser, x, sigmas, on_step, weights)


@sampler("Gradient Estimation")
def gradient_estimation(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Extrapolate the slope from the last one (Permenter & Yuan 2023, arXiv:2306.04848)."""

    def weights(sigmas: Sequence[float], index: int) -> tuple[float, ...]:
        return (_GRADIENT_GAMMA, 1 - _GRADIENT_GAMMA) if index else (1.0,)

    return _walk(denoiser, x, sigmas, on_step, weights)


def _walk(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    on_step: Callable[[StepInfo], None],
    weights: Weights,
    *,
    ends_with_guess: bool = True,
) -> Tensor:
    """Follow a weighted sum of slopes in each step; one to 0 takes the clean guess if told so."""
    steps = len(sigmas) - 1
    residuals: deque[Tensor] = deque(maxlen=len(EVEN_WEIGHTS))
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0 and ends_with_guess:
            x = denoised
        else:
            residuals.appendleft(x - denoised)
            width = sigma_next - sigma
            for place, weight in enumerate(weights(sigmas, index)):
                alpha = width * weight / sigmas[index - place]
                if place == 0:
                    x = torch.add(x, residuals[0], alpha=alpha)
                else:
                    x.add_(residuals[place], alpha=alpha)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


def _lagrange_weights(
    known: Sequence[float],
    sigma: float,
    sigma_next: float,
    points: Sequence[tuple[float, float]],
    time: Callable[[float], float] = float,
) -> list[float]:
    """Mean over the step of each of Lagrange's basis polynomials of `time` at the `known` sigmas.

    `points` are those of a Gauss–Legendre rule on −1…1.
    """
    half, centre = (sigma_next - sigma) / 2, (sigma_next + sigma) / 2
    times = [time(value) for value in known]
    places = [(time(centre + half * point), weight / 2) for point, weight in points]
    return [
        sum(
            weight
            * math.prod(
                (place - other) / (own - other)
                for other_index, other in enumerate(times)
                if other_index != own_index
            )
            for place, weight in places
        )
        for own_index, own in enumerate(times)
    ]


def _variance_preserving_time(sigma: float) -> float:
    """Return the time of a sigma where log(1 + sigma²) is a parabola: linear betas.

    Sigma is 0.002 at time 0.001 and 80 at time 1 (Karras et al. 2022, arXiv:2206.00364).
    """
    low, high = math.log1p(0.002**2), math.log1p(80.0**2)
    slope = 2 * (low / 1e-3 - high) / (1e-3 - 1)
    start = high - slope / 2
    return (math.sqrt(start**2 + 2 * slope * math.log1p(sigma**2)) - start) / slope


def _ipndm_v_weights(sigmas: Sequence[float], index: int) -> list[float]:
    """Weights of Adams–Bashforth for uneven steps, with the original's slip in the third order.

    There a 1 stands outside the product that it belongs into; pictures depend on it, and steps of
    equal width do not notice.
    """
    order = min(index + 1, len(EVEN_WEIGHTS))
    if order == 1:
        return [1.0]
    # Widths of the step to come and of those before it, latest first; all are negative.
    here, *past = [sigmas[index - k + 1] - sigmas[index - k] for k in range(order)]
    ratio = here / past[0]
    if order == 2:
        return [1 + ratio / 2, -ratio / 2]
    two = past[0] + past[1]
    older = past[0] / past[1]
    third = (1 - here / (3 * (here + past[0])) * here * (here + past[0]) / (past[0] * two)) / 2
    weights = [1 + ratio / 2 + third, -ratio / 2 - (1 + older) * third, older * third]
    if order == 3:
        return weights
    whole = here + past[0]
    lead = (1 - here / (3 * whole)) / 2
    lead += (1 - here / (2 * whole)) * here / (6 * (whole + past[1]))
    fourth = lead * here * whole * (whole + past[1]) / (past[0] * two * (two + past[2]))
    oldest = past[0] * two / (past[1] * (past[1] + past[2]))
    return [
        weights[0] + fourth,
        weights[1] - (1 + older + oldest) * fourth,
        weights[2] + (older + oldest * (1 + past[1] / past[2])) * fourth,
        -oldest * past[1] / past[2] * fourth,
    ]
