"""SA-Solver: stochastic Adams steps, predicted and then corrected with the next guess.

Xue et al. 2023, arXiv:2309.05019, in its form for clean guesses: predictor of order 3, corrector of
order 4, and new noise for the middle of the timesteps alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sdforge.sampling.flow import over_ratio
from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler

_PREDICTOR_ORDER, _CORRECTOR_ORDER = 3, 4
# Shares of the timesteps between which noise is added, both included.
_NOISY_FROM, _NOISY_TO = 0.2, 0.8


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A step from `sigma` to `sigma_next` at noise rate `tau`; `fresh` is its noise, if any."""

    sigma: float
    sigma_next: float
    tau: float
    fresh: Tensor | None

    def walk(self, x: Tensor, guesses: Sequence[Tensor], known: Sequence[float]) -> Tensor:
        """Return latents at the end, by `guesses` at the `known` sigmas, those of the begin first.

        A guess at the end itself comes before it.
        """
        width = math.log(self.sigma / self.sigma_next)
        rate = 1 + self.tau**2
        moments = [-math.expm1(-rate * width)]
        for power in range(1, len(known)):
            moments.append(width**power - power / rate * moments[-1])
        if len(known) == 2:
            # With two guesses the authors replace the exact weight of the slope.
            moments[1] = rate * width**2 / 2
        places = [math.log(self.sigma / sigma) for sigma in known]
        weights = np.linalg.solve(np.vander(places, increasing=True).T, moments).tolist()
        x = x * math.exp(-rate * width)
        for guess, weight in zip(guesses, weights, strict=True):
            x.add_(guess, alpha=weight)
        if self.fresh is not None:
            share = -math.expm1(-2 * self.tau**2 * width)
            x.add_(self.fresh, alpha=self.sigma_next * math.sqrt(share))
        return x


@sampler("SA-Solver")
@over_ratio
def sa_solver(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Correct the last step with the guess at its end, then predict the next.

    `eta` is the paper's tau.

    Raises:
        ValueError: `options.model`, whose timesteps are needed, is missing.
    """
    if options.model is None:
        raise ValueError("SA-Solver needs the model's timesteps: pass them as SamplerOptions.model")
    last_timestep = len(options.model.sigmas)
    steps = len(sigmas) - 1
    guesses: list[Tensor] = []
    before, stretch = x, None
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        denoised = denoiser(x, sigma)
        guesses = [denoised, *guesses[: _CORRECTOR_ORDER - 1]]
        if stretch is not None:
            order = min(_CORRECTOR_ORDER, index + 1, steps - index + 2)
            known = sigmas[index - order + 1 : index + 1][::-1]
            x = stretch.walk(before, guesses[:order], known)
        before = x
        if sigma_next == 0:
            x = denoised
        else:
            is_noisy = (
                _NOISY_FROM * last_timestep
                <= options.model.sigma_to_t(sigma)
                <= _NOISY_TO * last_timestep
            )
            tau = options.eta if is_noisy else 0.0
            fresh = noise(sigma, sigma_next) * options.s_noise if tau > 0 else None
            stretch = _Stretch(sigma, sigma_next, tau, fresh)
            order = min(_PREDICTOR_ORDER, index + 1, steps - index)
            known = sigmas[index - order + 1 : index + 1][::-1]
            x = stretch.walk(before, guesses[:order], known)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x
