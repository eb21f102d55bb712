"""Schedules: how noise falls over the steps. A schedule is a function from a step count to sigmas.

Computed once per batch on the host in single precision, as A1111 does, so that the same settings
give the same sigmas to the last digit. Adding one: a row in `names.py` and a function decorated
with `@schedule(label)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from sdforge.core.errors import InvalidRequest
from sdforge.core.registry import Registry
from sdforge.sampling.beta_distribution import beta_quantile
from sdforge.sampling.names import SCHEDULE_TABLE, ScheduleName


class ModelSigmas(Protocol):
    """What a schedule may ask of the model: its sigmas, rising, and their timesteps."""

    @property
    def sigmas(self) -> Sequence[float]:
        """All of them."""

    @property
    def sigma_min(self) -> float:
        """The smallest."""

    @property
    def sigma_max(self) -> float:
        """The largest."""

    def sigma_to_t(self, sigma: float) -> float:
        """Return the timestep of a sigma, with fractions."""

    def t_to_sigma(self, t: float) -> float:
        """Return the sigma of a timestep with fractions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScheduleInputs:
    """Everything that a schedule function may use; `rho` is its default or the user's."""

    steps: int
    sigma_min: float
    sigma_max: float
    rho: float
    model: ModelSigmas
    is_sdxl: bool = False


ScheduleFunction: TypeAlias = Callable[[ScheduleInputs], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec(ScheduleName):
    """A schedule: its row of the table of names, and its function."""

    function: ScheduleFunction


SCHEDULES: Registry[ScheduleSpec] = Registry("schedule")

# Sigmas that suit few steps best, found by NVIDIA for each kind of model:
# https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html
_ALIGNED_SD1 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_ALIGNED_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
# The same, found by the method of arXiv:2405.11326.
_GITS_SD1 = (14.615, 4.617, 2.507, 1.236, 0.702, 0.402, 0.240, 0.156, 0.104, 0.094, 0.029)
_GITS_SDXL = (14.615, 4.734, 2.567, 1.529, 0.987, 0.652, 0.418, 0.268, 0.179, 0.127, 0.029)
_USABLE_RHO = "a number with which sigmas fall from sigma_max to 0"
# Shape of the Beta schedule (arXiv:2407.12173), A1111's default.
_BETA_SHAPE = 0.6


def make_sigmas(
    schedule_label: str,
    steps: int,
    model: ModelSigmas,
    *,
    sigma_min: float = 0.0,
    sigma_max: float = 0.0,
    rho: float = 0.0,
    discard_penultimate: bool = False,
    timesteps: bool = False,
    is_sdxl: bool = False,
) -> tuple[float, ...]:
    """Return falling sigmas for `steps` steps; the last is 0, but KL Optimal ends at `sigma_min`.

    "DDIM" gives as many as the model's timesteps divide into, which can be some more than asked.

    Args:
        schedule_label: label, name or alias; not "Automatic".
        steps: at least 1.
        model: whose noise levels are walked.
        sigma_min: overrides the model's smallest sigma; 0 does not.
        sigma_max: overrides its largest sigma; 0 does not.
        rho: overrides the schedule's curvature, where it has one; 0 does not.
        discard_penultimate: compute one more and leave out the next-to-last.
        timesteps: for samplers that walk timesteps (`SamplerSpec.timesteps`): A1111's list for
            these, which clips a timestep past the end where the schedule drops it.
        is_sdxl: for the tables of Align Your Steps.

    Raises:
        UnknownName: no such schedule.
        InvalidRequest: `steps`, or overrides with which sigmas don't fall or aren't numbers.
    """
    spec = SCHEDULES.get(schedule_label, "scheduler")
    if steps < 1:
        raise InvalidRequest("steps", steps, "a whole number of at least 1")
    low, high = sigma_min or model.sigma_min, sigma_max or model.sigma_max
    if not 0 < low < high:
        raise InvalidRequest("sigma_min", low, f"more than 0 and less than sigma_max ({high:g})")
    inputs = ScheduleInputs(
        steps=steps + 1 if discard_penultimate else steps,
        sigma_min=low,
        sigma_max=high,
        rho=rho if rho and spec.default_rho > 0 else spec.default_rho,
        model=model,
        is_sdxl=is_sdxl,
    )
    try:
        sigmas = list(_timestep_sigmas(inputs) if timesteps else spec.function(inputs))
    except OverflowError as error:
        raise InvalidRequest("rho", inputs.rho, _USABLE_RHO) from error
    # For samplers of timesteps A1111 only takes one step more.
    if discard_penultimate and not timesteps:
        del sigmas[-2]
    sigmas = _distinct(sigmas)
    pairs = zip(sigmas, sigmas[1:], strict=False)
    if not all(map(math.isfinite, sigmas)) or any(early < late for early, late in pairs):
        raise InvalidRequest("rho", inputs.rho, _USABLE_RHO)
    return tuple(sigmas)


def _distinct(sigmas: Sequence[float]) -> list[float]:
    """Return single-precision sigmas without repetitions: no sampler can step over nothing."""
    rounded: list[float] = torch.tensor(sigmas, dtype=torch.float32).tolist()
    return [rounded[0]] + [b for a, b in zip(rounded, rounded[1:], strict=False) if a != b]


def schedule(label: str) -> Callable[[ScheduleFunction], ScheduleFunction]:
    """Decorate the function of the schedule that `names.py` lists under `label`."""
    row = SCHEDULE_TABLE.get(label)
    known = {field.name: getattr(row, field.name) for field in fields(ScheduleName)}

    def decorate(function: ScheduleFunction) -> ScheduleFunction:
        SCHEDULES.add(row.label, ScheduleSpec(**known, function=function), (row.name, *row.aliases))
        return function

    return decorate


@schedule("Uniform")
def uniform_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Even timesteps over all that the model was trained on; overrides have no effect."""
    last = float(len(inputs.model.sigmas) - 1)
    return [*_at_timesteps(inputs, _ramp(last, 0.0, inputs.steps)), 0.0]


@schedule("Karras")
def karras_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Even in sigma^(1/rho): equation 5 of Karras et al. 2022, arXiv:2206.00364."""
    low, high = inputs.sigma_min ** (1 / inputs.rho), inputs.sigma_max ** (1 / inputs.rho)
    ramp = torch.linspace(0, 1, inputs.steps)
    return [*((high + ramp * (low - high)) ** inputs.rho).tolist(), 0.0]


@schedule("Exponential")
def exponential_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Even in log sigma."""
    low, high = math.log(inputs.sigma_min), math.log(inputs.sigma_max)
    return [*torch.linspace(high, low, inputs.steps).exp().tolist(), 0.0]


@schedule("Polyexponential")
def polyexponential_sigmas(inputs: ScheduleInputs) -> list[float]:
    """A power of an even ramp, in log sigma; rho 1 is Exponential."""
    low, high = math.log(inputs.sigma_min), math.log(inputs.sigma_max)
    ramp = torch.linspace(1, 0, inputs.steps) ** inputs.rho
    return [*torch.exp(ramp * (high - low) + low).tolist(), 0.0]


@schedule("SGM Uniform")
def sgm_uniform_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Even timesteps without the last, smallest one (Stability's generative-models)."""
    return [*_at_timesteps(inputs, _timestep_ramp(inputs, inputs.steps + 1)[:-1]), 0.0]


@schedule("KL Optimal")
def kl_optimal_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Even in arctan sigma (Align Your Steps, arXiv:2404.14507, theorem 3.1); ends above 0."""
    low, high = (
        torch.arctan(torch.tensor(end, dtype=torch.float32))
        for end in (inputs.sigma_min, inputs.sigma_max)
    )
    ramp = torch.arange(inputs.steps + 1) / inputs.steps
    sigmas: list[float] = torch.tan(ramp * low + (1.0 - ramp) * high).tolist()
    return sigmas


@schedule("Align Your Steps")
def align_your_steps_sigmas(inputs: ScheduleInputs) -> list[float]:
    """A table of 11 sigmas, interpolated (Sabour et al. 2024, arXiv:2404.14507)."""
    return _interpolated(_ALIGNED_SDXL if inputs.is_sdxl else _ALIGNED_SD1, inputs.steps)


@schedule("Simple")
def simple_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Every n-th of the model's sigmas, from the largest on."""
    known = inputs.model.sigmas
    stride = len(known) / inputs.steps
    return [*(known[-1 - int(index * stride)] for index in range(inputs.steps)), 0.0]


@schedule("Normal")
def normal_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Even timesteps between the ends, overrides counted."""
    return [*_at_timesteps(inputs, _timestep_ramp(inputs, inputs.steps)), 0.0]


@schedule("DDIM")
def ddim_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Every n-th of the model's sigmas from its second one on, n a whole number."""
    known = inputs.model.sigmas
    return [*known[1 :: max(len(known) // inputs.steps, 1)][::-1], 0.0]


@schedule("Beta")
def beta_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Quantiles of a Beta(0.6, 0.6) distribution stretched over the sigmas (arXiv:2407.12173)."""
    width = inputs.sigma_max - inputs.sigma_min
    return [
        *(
            inputs.sigma_min + width * beta_quantile(place, _BETA_SHAPE, _BETA_SHAPE)
            for place in _ramp(1.0, 0.0, inputs.steps)
        ),
        0.0,
    ]


@schedule("Align Your Steps GITS")
def align_your_steps_gits_sigmas(inputs: ScheduleInputs) -> list[float]:
    """A table of 11 sigmas found by geometry, interpolated (Chen et al. 2024, arXiv:2405.11326)."""
    return _interpolated(_GITS_SDXL if inputs.is_sdxl else _GITS_SD1, inputs.steps)


@schedule("Align Your Steps 11")
def align_your_steps_11_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Forge's name for the table of Align Your Steps."""
    return _interpolated(_ALIGNED_SDXL if inputs.is_sdxl else _ALIGNED_SD1, inputs.steps)


def _timestep_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Sigmas of A1111's timesteps, `range(0, 1000, 1000 // steps) + 1` clipped to 999."""
    known = inputs.model.sigmas
    # One step would be timestep 1 alone, where almost nothing is left to remove.
    if inputs.steps == 1:
        return [known[-1], 0.0]
    places = range(0, len(known), max(len(known) // inputs.steps, 1))
    return [*(known[min(place + 1, len(known) - 1)] for place in reversed(places)), 0.0]


def _timestep_ramp(inputs: ScheduleInputs, count: int) -> Tensor:
    start = inputs.model.sigma_to_t(inputs.sigma_max)
    return torch.linspace(start, inputs.model.sigma_to_t(inputs.sigma_min), count)


def _at_timesteps(inputs: ScheduleInputs, places: Tensor | Sequence[float]) -> list[float]:
    values = places.tolist() if isinstance(places, Tensor) else places
    return [inputs.model.t_to_sigma(t) for t in values]


def _ramp(start: float, end: float, count: int) -> list[float]:
    values: list[float] = torch.linspace(start, end, count, dtype=torch.float64).tolist()
    return values


def _interpolated(table: tuple[float, ...], steps: int) -> list[float]:
    """Return `steps` values along a falling table, straight lines in its logarithm, and a 0."""
    logs = [math.log(value) for value in table]
    values = []
    for place in _ramp(0.0, len(table) - 1.0, steps):
        low = min(int(place), len(table) - 2)
        values.append(math.exp(logs[low] + (place - low) * (logs[low + 1] - logs[low])))
    return [*values, 0.0]
