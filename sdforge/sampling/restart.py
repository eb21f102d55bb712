"""Restart: Heun's steps that go back up through fresh noise and down again.

Xu et al. 2023, arXiv:2306.14878; when and how often as in A1111.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdforge.sampling.flow import over_ratio
from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler
from sdforge.sampling.several_looks import heun_step
from sdforge.sampling.sigmas import karras_ramp

# Noise is raised from about the first to about the second of these sigmas.
_LOW, _HIGH = 0.1, 2.0
_RHO = 7.0
# With fewer steps there are no restarts; with at least that many more there are two.
_FEWEST_STEPS, _STEPS_FOR_TWO = 20, 36
_STEPS_OF_ONE = 9


@sampler("Restart")
@over_ratio
def restart(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Spend some of the steps on going once or twice more from sigma 2 to 0.1.

    From 20 steps on the sigmas between the schedule's ends are Karras's, whatever was asked for.
    """
    path = restart_path(sigmas)
    reached = path[0][0]
    for index, (sigma, sigma_next) in enumerate(path):
        if sigma > reached:
            up = math.sqrt(sigma**2 - reached**2) * options.s_noise
            x = torch.add(x, noise(reached, sigma), alpha=up)
        denoised = denoiser(x, sigma)
        x = denoised if sigma_next == 0 else heun_step(denoiser, x, denoised, sigma, sigma_next)
        reached = sigma_next
        on_step(StepInfo(index, len(path), sigma, sigma_next, x, denoised))
    return x


def restart_path(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Return the steps as pairs of sigmas; one that begins above the last's end is a restart."""
    steps = len(sigmas) - 1
    if steps < _FEWEST_STEPS:
        return list(zip(sigmas, sigmas[1:], strict=False))
    times, length = (2, steps // 4) if steps >= _STEPS_FOR_TWO else (1, _STEPS_OF_ONE)
    ends_at_0 = sigmas[-1] == 0
    # A schedule that ends above 0 has one step less to share out, and one sigma more.
    count = steps - length * times + (0 if ends_at_0 else 1)
    main = karras_ramp(count, sigmas[-2] if ends_at_0 else sigmas[-1], sigmas[0], _RHO)
    main += [0.0] if ends_at_0 else []
    low, high = _nearest(main, _LOW), _nearest(main, _HIGH)
    path = list(zip(main, main[1:], strict=False))
    if high >= low:
        return path
    again = karras_ramp(length + 1, main[low], main[high], _RHO)
    return path[:low] + list(zip(again, again[1:], strict=False)) * times + path[low:]


def _nearest(sigmas: Sequence[float], wanted: float) -> int:
    return min(range(len(sigmas)), key=lambda index: abs(sigmas[index] - wanted))
