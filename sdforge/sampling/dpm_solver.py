"""DPM-Solver in steps of its own choice: DPM fast and DPM adaptive.

Lu et al. 2022, arXiv:2206.00927, as in k-diffusion: from the schedule only its ends are taken, and
the walk stops at the last positive sigma. Time is −log sigma. Every call of the denoiser is told
as a step, so that progress and cancelling keep pace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler
from sdforge.sampling.step_math import Ancestral, ancestral

# DPM adaptive's tolerances and controller: k-diffusion's defaults.
_ABSOLUTE_TOLERANCE, _RELATIVE_TOLERANCE = 0.0078, 0.05
_FIRST_WIDTH = 0.05
_LEAST_ACCEPTED = 0.81
_LEAST_ERROR = 1e-8
_CLOSE_ENOUGH = 1e-5
_ORDER, _ORDER_WITH_NOISE = 3, 1.5


class _Walk:
    """Asks the denoiser, keeps its last answer and tells each call once its outcome is known."""

    def __init__(self, denoiser: Denoiser, on_step: Callable[[StepInfo], None], steps: int) -> None:
        self._denoiser = denoiser
        self._on_step = on_step
        self._steps = steps
        self._calls = 0
        self._asked: tuple[float, Tensor] | None = None

    def slope(self, x: Tensor, time: float) -> Tensor:
        """Return (x − denoised) / sigma."""
        sigma = math.exp(-time)
        denoised = self._denoiser(x, sigma)
        self._asked = (sigma, denoised)
        return (x - denoised).div_(sigma)

    def tell(self, x: Tensor, time: float) -> None:
        """Report the last call: it led to `x`. Without a call since the last report, do nothing."""
        if self._asked is not None:
            (sigma, denoised), self._asked = self._asked, None
            self._on_step(StepInfo(self._calls, self._steps, sigma, math.exp(-time), x, denoised))
            self._calls += 1


def _first_order(x: Tensor, slope: Tensor, time: float, end: float) -> Tensor:
    return torch.add(x, slope, alpha=math.exp(-end) - math.exp(-time))


def _second_order(
    x: Tensor, slope: Tensor, later: Tensor, time: float, end: float, share: float
) -> Tensor:
    """Return latents at `end`, by the slope at `time` and the one that `share` of the way on."""
    width = math.exp(-end) - math.exp(-time)
    return torch.add(x, slope, alpha=width).add_(later - slope, alpha=width / (2 * share))


def _third_order(
    walk: _Walk, x: Tensor, slope: Tensor, later: Tensor, time: float, end: float
) -> Tensor:
    """Return latents at `end`, by slopes at `time`, a third of the way on (`later`) and two."""
    width = end - time
    third, two_thirds = width / 3, width * 2 / 3
    second = time + two_thirds
    bend = later - slope
    ahead = _first_order(x, slope, time, second).sub_(
        bend, alpha=2 * math.exp(-second) * (math.expm1(two_thirds) / two_thirds - 1)
    )
    walk.tell(ahead, second)
    bend = walk.slope(ahead, second) - slope
    scale = math.exp(-end) * (math.expm1(width) / width - 1) / (2 * third / width)
    return _first_order(x, slope, time, end).sub_(bend, alpha=scale)


def _ends(sigmas: Sequence[float]) -> tuple[float, float]:
    """Return the times of the first and the last positive sigma."""
    return -math.log(sigmas[0]), -math.log(min(sigma for sigma in sigmas if sigma > 0))


def _down(time: float, end: float, last: float, options: SamplerOptions) -> tuple[float, Ancestral]:
    """Return the time to step to, not beyond `last`, and how to get back up to `end`."""
    sigma_next = math.exp(-end)
    down = ancestral(math.exp(-time), sigma_next, options).down if options.eta else sigma_next
    if down == sigma_next:
        return end, Ancestral(down, 1.0, 0.0)
    lower = min(last, -math.log(down)) if down > 0 else last
    down = math.exp(-lower)
    keep = (1 - sigma_next) / (1 - down) if options.is_flow else 1.0
    up = math.sqrt(max(sigma_next**2 - (keep * down) ** 2, 0.0))
    return lower, Ancestral(down, keep, up * options.s_noise)


def _one_step(
    denoiser: Denoiser, x: Tensor, sigma: float, on_step: Callable[[StepInfo], None]
) -> Tensor:
    """Go to 0 at once: a schedule of one positive sigma leaves no other way."""
    denoised = denoiser(x, sigma)
    on_step(StepInfo(0, 1, sigma, 0.0, denoised, denoised))
    return denoised


@sampler("DPM fast")
def dpm_fast(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Spend as many denoiser calls as the schedule has steps, on even steps of order 3.

    What 3 leaves over goes into a last step of order 1 or 2, or both.
    """
    calls = len(sigmas) - 1
    first, last = _ends(sigmas)
    if first >= last:
        return _one_step(denoiser, x, sigmas[0], on_step)
    walk = _Walk(denoiser, on_step, calls)
    whole, rest = divmod(calls, 3)
    orders = [3] * whole + [rest] if rest else [3] * (whole - 1) + [2, 1]
    for index, order in enumerate(orders):
        time = first + (last - first) * index / len(orders)
        end = first + (last - first) * (index + 1) / len(orders)
        lower, back_up = _down(time, end, last, options)
        slope = walk.slope(x, time)
        if order == 1:
            x = _first_order(x, slope, time, lower)
        else:
            share = 1 / order
            middle = time + (lower - time) * share
            ahead = _first_order(x, slope, time, middle)
            walk.tell(ahead, middle)
            later = walk.slope(ahead, middle)
            if order == 2:
                x = _second_order(x, slope, later, time, lower, share)
            else:
                x = _third_order(walk, x, slope, later, time, lower)
        x = back_up.renoise(x, noise, math.exp(-time), math.exp(-end))
        walk.tell(x, end)
    return x


@sampler("DPM adaptive")
def dpm_adaptive(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Choose each step's width by the difference of orders 2 and 3, until sigma is small enough.

    That difference is taken over the whole batch, as in k-diffusion: this is the one sampler whose
    pictures depend on the others in their batch.
    """
    time, last = _ends(sigmas)
    if time >= last:
        return _one_step(denoiser, x, sigmas[0], on_step)
    walk = _Walk(denoiser, on_step, 0)
    order = _ORDER_WITH_NOISE if options.eta else _ORDER
    width = _FIRST_WIDTH
    lower_before = x
    slope: Tensor | None = None
    while time < last - _CLOSE_ENOUGH:
        end = min(last, time + width)
        lower, back_up = _down(time, end, last, options)
        # A step that was refused begins anew from the same place.
        if slope is None:
            slope = walk.slope(x, time)
        middle = time + (lower - time) / 3
        ahead = _first_order(x, slope, time, middle)
        walk.tell(ahead, middle)
        later = walk.slope(ahead, middle)
        low = _second_order(x, slope, later, time, lower, 1 / 3)
        high = _third_order(walk, x, slope, later, time, lower)
        factor = _width_factor(low, high, lower_before, order)
        if factor >= _LEAST_ACCEPTED:
            lower_before, slope = low, None
            x = back_up.renoise(high, noise, math.exp(-time), math.exp(-end))
            time = end
        width *= factor
        walk.tell(x, time)
    return x


def _width_factor(low: Tensor, high: Tensor, before: Tensor, order: float) -> float:
    """Return by how much the next step should be wider, from the error in units of tolerance."""
    size = torch.maximum(low.abs(), before.abs())
    allowed = (size * _RELATIVE_TOLERANCE).clamp_(min=_ABSOLUTE_TOLERANCE)
    error = float(torch.linalg.vector_norm((low - high) / allowed)) / math.sqrt(low.numel())
    wanted = float((1 / (error + _LEAST_ERROR)) ** (1 / order))
    return 1 + math.atan(wanted - 1)
