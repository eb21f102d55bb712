"""All samplers and schedules with their functions: what the pipeline imports.

Importing this module is what registers them; `names.py` has the same names without torch.
"""

from __future__ import annotations

from sdforge.sampling import (
    cfg_pp,
    dpm_solver,
    multi_step,
    one_step,
    restart,
    sa_solver,
    several_looks,
    slopes,
    timesteps,
    uni_pc,
)
from sdforge.sampling.sampler import (
    SAMPLERS,
    Denoiser,
    GuidedDenoiser,
    Noise,
    SamplerFunction,
    SamplerOptions,
    SamplerSpec,
    StepInfo,
    sampler,
)
from sdforge.sampling.sigmas import SCHEDULES, ScheduleSpec

SAMPLER_MODULES = (
    one_step,
    several_looks,
    restart,
    multi_step,
    slopes,
    dpm_solver,
    timesteps,
    uni_pc,
    sa_solver,
    cfg_pp,
)

__all__ = [
    "SAMPLERS",
    "SAMPLER_MODULES",
    "SCHEDULES",
    "Denoiser",
    "GuidedDenoiser",
    "Noise",
    "SamplerFunction",
    "SamplerOptions",
    "SamplerSpec",
    "ScheduleSpec",
    "StepInfo",
    "sampler",
]
