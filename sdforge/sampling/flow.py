"""Lets samplers that were written for `clean + sigma·noise` walk the latents of flow models.

Flow latents are `(1 − sigma)·clean + sigma·noise`. Divided by 1 − sigma they are of the other kind,
with noise of sigma / (1 − sigma): decorated with `@over_ratio`, a sampler sees only those. Samplers
that follow the plain equation dx/dsigma = (x − clean) / sigma need nothing of this: it is the same
in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps

from torch import Tensor

from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.sampler import (
    Denoiser,
    Noise,
    SamplerFunction,
    SamplerOptions,
    StepInfo,
    denoise_with_uncond,
)
from sdforge.sampling.step_math import from_ratio, to_ratio


def over_ratio(function: SamplerFunction) -> SamplerFunction:
    """Decorate a sampler so that on a flow model it walks ratios of noise to signal."""

    @wraps(function)
    def walk(
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Sequence[float],
        noise: Noise,
        on_step: Callable[[StepInfo], None],
        options: SamplerOptions,
    ) -> Tensor:
        if options.model is None or not options.is_flow:
            return function(denoiser, x, sigmas, noise, on_step, options)
        reached = sigmas[0]

        def told(info: StepInfo) -> None:
            nonlocal reached
            reached = from_ratio(info.sigma_next)
            scaled = info.x * (1 - reached)
            on_step(replace(info, sigma=from_ratio(info.sigma), sigma_next=reached, x=scaled))

        ratios = [to_ratio(sigma) for sigma in sigmas]
        result = function(
            _Scaled(denoiser),
            x * (1 + ratios[0]),
            ratios,
            lambda start, end: noise(from_ratio(start), from_ratio(end)),
            told,
            replace(options, model=_Ratios(options.model)),
        )
        return result * (1 - reached)

    return walk


@dataclass(frozen=True, slots=True)
class _Scaled:
    """The denoiser, for latents divided by 1 − sigma."""

    denoiser: Denoiser

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.denoiser(x * (1 / (1 + sigma)), from_ratio(sigma))

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        return denoise_with_uncond(self.denoiser, x * (1 / (1 + sigma)), from_ratio(sigma))


@dataclass(frozen=True, slots=True)
class _Ratios:
    """A flow model's sigmas as ratios of noise to signal."""

    model: ModelSigmas

    @property
    def sigmas(self) -> Sequence[float]:
        return [to_ratio(sigma) for sigma in self.model.sigmas]

    @property
    def sigma_min(self) -> float:
        return to_ratio(self.model.sigma_min)

    @property
    def sigma_max(self) -> float:
        return to_ratio(self.model.sigma_max)

    @property
    def is_flow(self) -> bool:
        return False

    def sigma_to_t(self, sigma: float) -> float:
        return self.model.sigma_to_t(from_ratio(sigma))

    def t_to_sigma(self, t: float) -> float:
        return to_ratio(self.model.t_to_sigma(t))
