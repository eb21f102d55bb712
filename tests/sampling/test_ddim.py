"""DDIM as A1111 writes it, in timesteps and over variance-preserving latents."""

from __future__ import annotations

import math

import pytest
import torch

from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.noise import ImageNoise
from sdforge.sampling.registry import SAMPLERS, SamplerOptions
from sdforge.sampling.sigmas import make_sigmas

SHAPE = (4, 8, 8)
SEEDS = [5, 6]


def predicted_noise(x: torch.Tensor, timestep: int) -> torch.Tensor:
    """A stand-in for a model: some function of scaled latents and timestep."""
    return torch.tanh(x * 0.7 + timestep / 1000)


def published_ddim(model: ModelSigmas, steps: int, eta: float) -> torch.Tensor:
    """Equation 12 of arXiv:2010.02502 over A1111's timesteps, starting from unit noise."""
    kept = [1 / (1 + sigma**2) for sigma in model.sigmas]
    timesteps = [min(t + 1, 999) for t in range(0, 1000, 1000 // steps)]
    noise = ImageNoise(seeds=SEEDS, shape=SHAPE)
    x = noise.initial().double()
    for index in range(len(timesteps) - 1, 0, -1):
        now, after = kept[timesteps[index]], kept[timesteps[index - 1]]
        guess = predicted_noise(x, timesteps[index])
        clean = (x - math.sqrt(1 - now) * guess) / math.sqrt(now)
        sigma = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
        x = math.sqrt(after) * clean + math.sqrt(1 - after - sigma**2) * guess
        x = x + sigma * noise(0.0, 0.0)
    return x


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [2, 9, 20, 30, 37])
def test_ddim_equals_the_published_rule_over_a1111s_timesteps(
    steps: int, eta: float, model: ModelSigmas
) -> None:
    sigmas = make_sigmas("DDIM", steps, model, timesteps=True)

    def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
        timestep = min(range(1000), key=lambda t: abs(model.sigmas[t] - sigma))
        scaled = x / math.sqrt(1 + sigma**2)
        return x - sigma * predicted_noise(scaled, timestep)

    noise = ImageNoise(seeds=SEEDS, shape=SHAPE)
    x = noise.initial().double() * math.sqrt(1 + sigmas[0] ** 2)
    result = SAMPLERS.get("DDIM").function(
        denoiser, x, sigmas, noise, lambda info: None, SamplerOptions(eta=eta)
    )
    expected = published_ddim(model, steps, eta)
    assert float((result - expected).norm() / expected.norm()) < 1e-5


def test_twenty_steps_are_nineteen_calls_as_in_a1111(model: ModelSigmas) -> None:
    sigmas = make_sigmas("DDIM", 20, model, timesteps=True)
    assert sigmas[0] == model.sigmas[951]
    assert sigmas[-2:] == (model.sigmas[1], 0.0)
    calls: list[float] = []

    def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
        calls.append(sigma)
        return x * 0

    x = torch.ones(1, *SHAPE)
    noise = ImageNoise(seeds=[0], shape=SHAPE)
    SAMPLERS.get("DDIM").function(
        denoiser, x, sigmas, noise, lambda info: None, SamplerOptions(eta=0.0)
    )
    assert calls == list(sigmas[:-2])
    assert len(calls) == 19
