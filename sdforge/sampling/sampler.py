"""What a sampler is: its signature, what it is told, what it tells, and how it is registered.

A sampler is one function that walks down the sigmas. Its host-side arithmetic is on Python floats,
so no step waits for the device. Adding one: a row in `names.py` and a function decorated with
`@sampler(name)` in `one_step.py` or `multi_step.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeAlias

from torch import Tensor

from sdforge.core.registry import Registry
from sdforge.sampling.names import SAMPLER_TABLE, SamplerName

Denoiser: TypeAlias = Callable[[Tensor, float], Tensor]


class Noise(Protocol):
    """Unit-variance noise for the step from `sigma` to `sigma_next`; new with every call."""

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        """Return it in the shape of the latents."""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A finished step.

    Attributes:
        index: of the step, from 0.
        steps: how many there are.
        sigma: noise that the step began with.
        x: the latents it produced.
        denoised: what the denoiser took for the clean latents, in its first call of the step.
    """

    index: int
    steps: int
    sigma: float
    x: Tensor
    denoised: Tensor


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """Numbers that a user may turn; each sampler reads those that it knows.

    Attributes:
        eta: share of the noise that is replaced by new noise in stochastic samplers.
        s_churn: noise added before each step (Karras et al. 2022, algorithm 2).
        s_tmin: least sigma at which it is added.
        s_tmax: largest sigma at which it is added.
        s_noise: scale of the noise that is added.
    """

    eta: float = 1.0
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0


class SamplerFunction(Protocol):
    """The rule of a sampler."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Sequence[float],
        noise: Noise,
        on_step: Callable[[StepInfo], None],
        options: SamplerOptions,
    ) -> Tensor:
        """Walk from `sigmas[0]` down to the last sigma and return the latents there.

        Args:
            denoiser: guess of the clean latents.
            x: latents with noise of `sigmas[0]`, (batch, channels, height/8, width/8); kept as is.
            sigmas: falling; the last one is 0 unless the schedule keeps some noise.
            noise: source of new noise.
            on_step: called after every step; what it raises ends the walk (so one cancels).
            options: what the user may turn.
        """


@dataclass(frozen=True, kw_only=True)
class SamplerSpec(SamplerName):
    """A sampler: its row of the table of names, and its function."""

    function: SamplerFunction


SAMPLERS: Registry[SamplerSpec] = Registry("sampler")


def sampler(name: str) -> Callable[[SamplerFunction], SamplerFunction]:
    """Decorate the function of the sampler that `names.py` lists as `name`."""
    row = SAMPLER_TABLE.get(name)
    known = {field.name: getattr(row, field.name) for field in fields(SamplerName)}

    def decorate(function: SamplerFunction) -> SamplerFunction:
        SAMPLERS.add(row.name, SamplerSpec(**known, function=function), row.aliases)
        return function

    return decorate
