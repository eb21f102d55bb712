"""Schedules: how noise falls over the steps. A schedule is a function from a step count to sigmas.

Computed once per batch on the host in single precision, as A1111 does, so that the same settings
give the same sigmas to the last digit. Adding one: a row in `names.py` and a function decorated
with `@schedule(label)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import torch
from torch import Tensor

from sdforge.core.errors import InvalidRequest
from sdforge.core.registry import Registry
from sdforge.sampling.beta_distribution import beta_quantile
from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.names import SCHEDULE_TABLE, ScheduleName
from sdforge.sampling.step_tables import ALIGNED_11, ALIGNED_32, GITS_11, Table
from sdforge.sampling.timestep_sigmas import timestep_sigmas

# Shape of the Beta schedule (arXiv:2407.12173), A1111's default.
BETA_SHAPE = (0.6, 0.6)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScheduleInputs:
    """Everything that a schedule function may use; `rho` is its default or the user's."""

    steps: int
    sigma_min: float
    sigma_max: float
    rho: float
    model: ModelSigmas
    is_sdxl: bool = False
    beta_shape: tuple[float, float] = BETA_SHAPE


ScheduleFunction: TypeAlias = Callable[[ScheduleInputs], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec(ScheduleName):
    """A schedule: its row of the table of names, and its function."""

    function: ScheduleFunction


SCHEDULES: Registry[ScheduleSpec] = Registry("schedule")

_USABLE_RHO = "a number with which sigmas fall from sigma_max to 0"


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
    skip_type: str = "",
    is_sdxl: bool = False,
    beta_shape: tuple[float, float] = BETA_SHAPE,
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
        timesteps: for samplers that walk timesteps (`SamplerSpec.timesteps`): A1111's list, which
            clips a timestep past the end where the schedule drops it.
        skip_type: with `timesteps`, one of `SKIP_TYPES` spaces them as UniPC does; "" does not.
        is_sdxl: for the tables of Align Your Steps.
        beta_shape: alpha and beta of the Beta schedule.

    Raises:
        UnknownName: no such schedule.
        InvalidRequest: `steps`, or overrides with which sigmas don't fall or aren't numbers.
    """
    spec = SCHEDULES.get(schedule_label, "scheduler")
    if steps < 1:
        raise InvalidRequest("steps", steps, "a whole number of at least 1")
    low, high = _ends(sigma_min or model.sigma_min, sigma_max or model.sigma_max)
    inputs = ScheduleInputs(
        steps=steps + 1 if discard_penultimate else steps,
        sigma_min=low,
        sigma_max=high,
        rho=rho if rho and spec.default_rho > 0 else spec.default_rho,
        model=model,
        is_sdxl=is_sdxl,
        beta_shape=beta_shape,
    )
    try:
        if timesteps:
            sigmas = timestep_sigmas(inputs.steps, model, skip_type)
        else:
            sigmas = list(spec.function(inputs))
    except OverflowError as error:
        raise InvalidRequest("rho", inputs.rho, _USABLE_RHO) from error
    # For samplers of timesteps A1111 only takes one step more.
    if discard_penultimate and not timesteps:
        del sigmas[-2]
    return _falling(sigmas, inputs.rho)


def _ends(low: float, high: float) -> tuple[float, float]:
    if not 0 < low < high:
        raise InvalidRequest("sigma_min", low, f"more than 0 and less than sigma_max ({high:g})")
    return low, high


def _falling(sigmas: Sequence[float], rho: float) -> tuple[float, ...]:
    """Return the sigmas without repetitions; raises `InvalidRequest` unless they fall."""
    distinct = _distinct(sigmas)
    pairs = zip(distinct, distinct[1:], strict=False)
    if not all(map(math.isfinite, distinct)) or any(early < late for early, late in pairs):
        raise InvalidRequest("rho", rho, _USABLE_RHO)
    return tuple(distinct)


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
    return [*karras_ramp(inputs.steps, inputs.sigma_min, inputs.sigma_max, inputs.rho), 0.0]


def karras_ramp(count: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Return `count` sigmas from `sigma_max` to `sigma_min`, even in sigma^(1/rho)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas: list[float] = ((high + torch.linspace(0, 1, count) * (low - high)) ** rho).tolist()
    return sigmas


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
    return _interpolated(ALIGNED_11, inputs)


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
    """Quantiles of a Beta distribution stretched over the sigmas (arXiv:2407.12173)."""
    width = inputs.sigma_max - inputs.sigma_min
    return [
        *(
            inputs.sigma_min + width * beta_quantile(place, *inputs.beta_shape)
            for place in _ramp(1.0, 0.0, inputs.steps)
        ),
        0.0,
    ]


@schedule("Align Your Steps GITS")
def align_your_steps_gits_sigmas(inputs: ScheduleInputs) -> list[float]:
    """A table of 11 sigmas found by geometry, interpolated (Chen et al. 2024, arXiv:2405.11326)."""
    return _interpolated(GITS_11, inputs)


@schedule("Align Your Steps 11")
def align_your_steps_11_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Forge's name for the table of Align Your Steps."""
    return _interpolated(ALIGNED_11, inputs)


@schedule("Align Your Steps 32")
def align_your_steps_32_sigmas(inputs: ScheduleInputs) -> list[float]:
    """A longer table of the same, interpolated; falls to 0.015, below the models' own sigmas."""
    return _interpolated(ALIGNED_32, inputs)


@schedule("Turbo")
def turbo_sigmas(inputs: ScheduleInputs) -> list[float]:
    """Timesteps 1000 / n apart, the largest first and the smallest left out (SD Turbo)."""
    known = inputs.model.sigmas
    stride = len(known) / inputs.steps
    places = (round((inputs.steps - index) * stride - 1) for index in range(inputs.steps))
    return [*(known[min(max(place, 0), len(known) - 1)] for place in places), 0.0]


def _timestep_ramp(inputs: ScheduleInputs, count: int) -> Tensor:
    start = inputs.model.sigma_to_t(inputs.sigma_max)
    return torch.linspace(start, inputs.model.sigma_to_t(inputs.sigma_min), count)


def _at_timesteps(inputs: ScheduleInputs, places: Tensor | Sequence[float]) -> list[float]:
    values = places.tolist() if isinstance(places, Tensor) else places
    return [inputs.model.t_to_sigma(t) for t in values]


def _ramp(start: float, end: float, count: int) -> list[float]:
    values: list[float] = torch.linspace(start, end, count, dtype=torch.float64).tolist()
    return values


def _interpolated(tables: tuple[Table, Table], inputs: ScheduleInputs) -> list[float]:
    """Return as many values as steps along a table, straight lines in its logarithm, and a 0.

    Flow models get the same ratios of noise to signal, but begin at their own largest sigma.
    """
    table = tables[1 if inputs.is_sdxl else 0]
    logs = [math.log(value) for value in table]
    values = []
    for place in _ramp(0.0, len(table) - 1.0, inputs.steps):
        low = min(int(place), len(table) - 2)
        values.append(math.exp(logs[low] + (place - low) * (logs[low + 1] - logs[low])))
    if inputs.model.is_flow:
        values = [inputs.sigma_max, *(value / (1 + value) for value in values[1:])]
    return [*values, 0.0]
