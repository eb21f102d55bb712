"""What a sampler is: its signature, what it is told, what it tells, and how it is registered.

A sampler is one function that walks down the sigmas. Its host-side arithmetic is on Python floats,
so no step waits for the device. Adding one: a row in `names.py` and a function decorated with
`@sampler(name)` in one of the modules that `registry.py` lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from sdforge.core.registry import Registry
from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.names import SAMPLER_TABLE, SamplerName

Denoiser: TypeAlias = Callable[[Tensor, float], Tensor]


@runtime_checkable
class GuidedDenoiser(Protocol):
    """A denoiser that can also say what it would guess without the prompt."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the guided guess of the clean latents."""

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the guided guess and the one without the prompt, for the price of one."""


def denoise_with_uncond(denoiser: Denoiser, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the guided and the unguided guess; twice the same one where nothing guides."""
    if isinstance(denoiser, GuidedDenoiser):
        return denoiser.with_uncond(x, sigma)
    guess = denoiser(x, sigma)
    return guess, guess


class Noise(Protocol):
    """Unit-variance noise for the step from `sigma` to `sigma_next`; new with every call."""

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        """Return it in the shape of the latents."""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A finished step.

    Attributes:
        index: of the step, from 0.
        steps: how many there are; 0 when nobody can know (DPM adaptive).
        sigma: noise that the step began with.
        sigma_next: noise that is in `x`.
        x: the latents it produced.
        denoised: what the denoiser took for the clean latents, in its first call of the step.
    """

    index: int
    steps: int
    sigma: float
    sigma_next: float
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
        uni_pc_order: how many guesses UniPC's predictor uses, at least 1.
        uni_pc_variant: one of `names.UNI_PC_VARIANTS`.
        uni_pc_lower_order_final: whether UniPC's order falls towards its last step.
        model: whose sigmas are walked. None is a model of Stable Diffusion's kind; the samplers
            that need its timesteps say so.
    """

    eta: float = 1.0
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0
    uni_pc_order: int = 3
    uni_pc_variant: str = "bh1"
    uni_pc_lower_order_final: bool = True
    model: ModelSigmas | None = None

    @property
    def is_flow(self) -> bool:
        """Whether latents are (1 − sigma)·clean + sigma·noise instead of clean + sigma·noise."""
        return self.model is not None and self.model.is_flow


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
