"""All samplers and schedules with their functions: what the pipeline imports.

Importing this module is what registers them; `names.py` has the same names without torch.
"""

from __future__ import annotations

from sdforge.sampling import multi_step, one_step
from sdforge.sampling.sampler import (
    SAMPLERS,
    Denoiser,
    Noise,
    SamplerFunction,
    SamplerOptions,
    SamplerSpec,
    StepInfo,
    sampler,
)
from sdforge.sampling.sigmas import SCHEDULES, ScheduleSpec

SAMPLER_MODULES = (one_step, multi_step)

__all__ = [
    "SAMPLERS",
    "SAMPLER_MODULES",
    "SCHEDULES",
    "Denoiser",
    "Noise",
    "SamplerFunction",
    "SamplerOptions",
    "SamplerSpec",
    "ScheduleSpec",
    "StepInfo",
    "sampler",
]
