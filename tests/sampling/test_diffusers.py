"""Samplers that k-diffusion lacks, against diffusers' schedulers of the same methods.

Those work on latents of variance 1: x / sqrt(1 + sigma²). What they draw is handed to ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.registry import SAMPLERS, SamplerOptions
from sdforge.sampling.sigmas import karras_ramp, make_sigmas

diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 4, 8, 8)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.tanh(x / (1 + sigma * sigma)) * 0.9 - 0.1


def scale(sigma: float) -> float:
    return 1 / math.sqrt(1 + sigma**2)


def start(sigma: float) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)) / scale(sigma)


def ours(name: str, sigmas: Sequence[float], noise: Any = None, **options: Any) -> torch.Tensor:
    return SAMPLERS.get(name).function(
        denoiser, start(sigmas[0]), sigmas, noise, lambda info: None, SamplerOptions(**options)
    )


def step_through(scheduler: Any, sigmas: Sequence[float], **more: Any) -> torch.Tensor:
    """Walk a scheduler that keeps its sigmas in `sigmas`, in the training's scale."""
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.tensor(sigmas)
    x = start(sigmas[0]) * scale(sigmas[0])
    for sigma, timestep in zip(sigmas[:-1], scheduler.timesteps, strict=True):
        x = scheduler.step(denoiser(x / scale(sigma), sigma), timestep, x, **more).prev_sample
    return x


def difference(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("steps", [2, 3, 5, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("skip_type", ["time_uniform", "time_quadratic", "logSNR"])
def test_uni_pc(skip_type: str, variant: str, order: int, steps: int, model: ModelSigmas) -> None:
    sigmas = make_sigmas("DDIM", steps, model, timesteps=True, skip_type=skip_type)
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=order, solver_type=variant, prediction_type="sample", **BETAS
    )
    expected = step_through(scheduler, sigmas)
    result = ours("UniPC", sigmas, uni_pc_order=order, uni_pc_variant=variant)
    assert difference(result, expected) < 2e-5


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_sa_solver(eta: float, model: ModelSigmas) -> None:
    sigmas = karras_ramp(15, 0.03, 14.6, 7.0)
    timesteps = [model.sigma_to_t(sigma) for sigma in sigmas[:-1]]
    scheduler = diffusers.SASolverScheduler(
        predictor_order=3, corrector_order=4, prediction_type="sample", **BETAS,
        tau_func=lambda t: eta if 200 <= timesteps[steps_done(t)] <= 800 else 0.0,
    )  # fmt: skip
    scheduler.set_timesteps(len(sigmas) - 1)
    order = scheduler.timesteps.tolist()

    def steps_done(timestep: Any) -> int:
        return order.index(int(timestep))

    expected = step_through(scheduler, sigmas, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    drawn = {sigma: torch.randn(SHAPE, generator=generator) for sigma in sigmas[:-1]}
    result = ours("SA-Solver", sigmas, lambda sigma, _: drawn[sigma], eta=eta, model=model)
    assert difference(result * scale(sigmas[-1]), expected) < 1e-4


def test_plms(model: ModelSigmas) -> None:
    """Over 20 steps, where both walk the timesteps 951, 901 … 1; diffusers then goes on."""
    sigmas = make_sigmas("DDIM", 20, model, timesteps=True)
    scheduler = diffusers.PNDMScheduler(
        skip_prk_steps=True, steps_offset=1, prediction_type="epsilon", **BETAS
    )
    scheduler.set_timesteps(20)
    x = start(sigmas[0]) * scale(sigmas[0])
    for timestep in scheduler.timesteps.tolist()[:-1]:
        sigma = model.sigmas[timestep]
        guess = (x / scale(sigma) - denoiser(x / scale(sigma), sigma)) / sigma
        x = scheduler.step(guess, timestep, x).prev_sample
    assert difference(ours("PLMS", sigmas), x) < 1e-5


def test_ipndm() -> None:
    """Over sigmas: with its alphas at 1 and its betas at sigma, diffusers' steps are Euler's."""
    sigmas = [*karras_ramp(12, 0.03, 14.6, 7.0), 0.0]
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(12)
    scheduler.betas, scheduler.alphas = torch.tensor(sigmas), torch.ones(13)
    x = start(sigmas[0])
    for sigma, timestep in zip(sigmas[:-2], scheduler.timesteps, strict=False):
        slope = (x - denoiser(x, sigma)) / sigma
        x = scheduler.step(slope - x * torch.tensor(sigma), timestep, x).prev_sample
    assert difference(ours("IPNDM", sigmas[:-1]), x) < 1e-5
    # Forge's takes the clean guess at the end.
    assert difference(ours("IPNDM", sigmas), denoiser(x, sigmas[-2])) < 1e-5


@pytest.mark.parametrize(("name", "eta"), [("LCM", 1.0), ("TCD", 0.0), ("TCD", 0.3), ("TCD", 1.0)])
def test_distilled_samplers(name: str, eta: float, model: ModelSigmas) -> None:
    kind = diffusers.LCMScheduler if name == "LCM" else diffusers.TCDScheduler
    scheduler = kind(prediction_type="sample", clip_sample=False, **BETAS)
    scheduler.set_timesteps(6, original_inference_steps=50)
    timesteps = scheduler.timesteps.tolist()
    sigmas = [*(model.sigmas[timestep] for timestep in timesteps), 0.0]
    more = {"eta": eta} if name == "TCD" else {}
    generator, again = (torch.Generator().manual_seed(7) for _ in range(2))
    x = start(sigmas[0]) * scale(sigmas[0])
    for sigma, timestep in zip(sigmas[:-1], timesteps, strict=True):
        guess = denoiser(x / scale(sigma), sigma)
        step = scheduler.step(guess, timestep, x, generator=generator, **more)
        x = step.prev_sample
    x = guess if name == "LCM" else x
    result = ours(
        name, sigmas, lambda *_: torch.randn(SHAPE, generator=again), eta=eta, model=model
    )
    # diffusers' last step of TCD keeps the noise of timestep 0.
    assert difference(result, x if name == "LCM" else denoiser_end(x, guess)) < 1e-4


def denoiser_end(x: torch.Tensor, guess: torch.Tensor) -> torch.Tensor:
    assert difference(x, guess) < 0.1
    return guess


def test_ddpm(model: ModelSigmas) -> None:
    sigmas = make_sigmas("DDIM", 10, model)
    scheduler = diffusers.DDPMScheduler(
        prediction_type="sample", clip_sample=False, timestep_spacing="leading", steps_offset=1,
        **BETAS,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    assert [model.sigmas[t] for t in scheduler.timesteps] == pytest.approx(list(sigmas[:-1]))
    generator, again = (torch.Generator().manual_seed(9) for _ in range(2))
    x = start(sigmas[0]) * scale(sigmas[0])
    for sigma, timestep in zip(sigmas[:-2], scheduler.timesteps, strict=False):
        x = scheduler.step(
            denoiser(x / scale(sigma), sigma), timestep, x, generator=generator
        ).prev_sample
    result = ours("DDPM", sigmas[:-1], lambda *_: torch.randn(SHAPE, generator=again))
    assert difference(result * scale(sigmas[-2]), x) < 1e-5
