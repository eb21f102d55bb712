"""Our samplers against k-diffusion's, an independent implementation, number by number."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch

from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.noise import ImageNoise
from sdforge.sampling.registry import SAMPLERS, SamplerOptions
from sdforge.sampling.sigmas import make_sigmas

SHAPE = (4, 8, 8)
SEEDS = [7, 8]
FUNCTIONS = {
    "Euler": "sample_euler",
    "Euler a": "sample_euler_ancestral",
    "Heun": "sample_heun",
    "DPM++ 2M": "sample_dpmpp_2m",
    "LMS": "sample_lms",
    "DPM++ SDE": "sample_dpmpp_sde",
    "DPM++ 2M SDE": "sample_dpmpp_2m_sde",
    "DPM++ 2M SDE Heun": "sample_dpmpp_2m_sde",
    "DPM++ 3M SDE": "sample_dpmpp_3m_sde",
    "DPM++ 2S a": "sample_dpmpp_2s_ancestral",
    "DPM2": "sample_dpm_2",
    "DPM2 a": "sample_dpm_2_ancestral",
    "DPM fast": "sample_dpm_fast",
    "DPM adaptive": "sample_dpm_adaptive",
    "DDPM": "sample_euler_ancestral",
}
STOCHASTIC = [name for name in FUNCTIONS if SAMPLERS.get(name).uses_noise and name != "DDPM"]


def denoiser(x: torch.Tensor, sigma: Any) -> torch.Tensor:
    """Neither linear nor the same for every sigma; takes our floats and their tensors."""
    sigma = sigma if isinstance(sigma, float) else sigma.view(-1, 1, 1, 1)
    return torch.tanh(x / (1 + sigma * sigma)) * 0.9 - 0.1


def tolerance(name: str) -> float:
    """DPM adaptive's step widths hang on single precision there; all else agrees to rounding."""
    return 2e-5 if name == "DPM adaptive" else 2e-6


def difference(
    peer: ModuleType, name: str, label: str, model: ModelSigmas, **options: float
) -> float:
    spec = SAMPLERS.get(name)
    sigmas = make_sigmas(label, 12, model)
    noise = ImageNoise(seeds=SEEDS, shape=SHAPE)
    x = noise.initial() * sigmas[0]
    low = min(sigma for sigma in sigmas if sigma > 0)
    source = noise.brownian(low, sigmas[0]) if spec.brownian else noise
    ours = spec.function(denoiser, x, sigmas, source, lambda info: None, SamplerOptions(**options))
    more: dict[str, Any] = dict(options)
    schedule = torch.tensor(sigmas)
    if spec.brownian:
        more["noise_sampler"] = peer.sampling.BrownianTreeNoiseSampler(
            x, schedule[schedule > 0].min(), schedule.max(), seed=SEEDS
        )
    elif spec.uses_noise:
        again = ImageNoise(seeds=SEEDS, shape=SHAPE)
        again.initial()
        more["noise_sampler"] = again
    if spec.solver_type:
        more["solver_type"] = spec.solver_type
    function = getattr(peer.sampling, FUNCTIONS[name])
    if spec.only_ends:
        # k-diffusion's functions for these default to an eta of 0, A1111's setting to 1.
        more = {"eta": SamplerOptions().eta, **more}
        ends: tuple[Any, ...] = (low, sigmas[0])
        ends += (len(sigmas) - 1,) if name == "DPM fast" else ()
        theirs = function(denoiser, x, *ends, disable=True, **more)
    else:
        theirs = function(denoiser, x, schedule, disable=True, **more)
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning")
@pytest.mark.parametrize("label", ["Karras", "Uniform", "Exponential", "KL Optimal", "Simple"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sampler_equals_k_diffusions(
    k_diffusion: ModuleType, name: str, label: str, model: ModelSigmas
) -> None:
    assert difference(k_diffusion, name, label, model) < tolerance(name)


@pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning")
@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_sampler_equals_k_diffusions_with_less_new_noise(
    k_diffusion: ModuleType, name: str, eta: float, model: ModelSigmas
) -> None:
    assert difference(k_diffusion, name, "Karras", model, eta=eta) < tolerance(name)


@pytest.mark.filterwarnings("ignore:Should have t[ab]:UserWarning")
@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name != "Euler a"])
def test_sampler_equals_k_diffusions_with_scaled_noise(
    k_diffusion: ModuleType, name: str, model: ModelSigmas
) -> None:
    assert difference(k_diffusion, name, "Karras", model, s_noise=0.9) < tolerance(name)


@pytest.mark.parametrize("name", ["Euler", "Heun", "DPM2"])
@pytest.mark.parametrize(
    "options",
    [
        {"s_churn": 3.0},
        {"s_churn": 50.0, "s_noise": 1.05},
        {"s_churn": 5.0, "s_tmin": 0.3, "s_tmax": 5.0},
    ],
    ids=str,
)
def test_churn_equals_k_diffusions(
    k_diffusion: ModuleType,
    name: str,
    options: dict[str, float],
    model: ModelSigmas,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """k-diffusion draws churn's noise with `randn_like`; here it draws from the same seeds."""
    again = ImageNoise(seeds=SEEDS, shape=SHAPE)
    again.initial()
    monkeypatch.setattr(torch, "randn_like", lambda x: again(0.0, 0.0))
    assert difference(k_diffusion, name, "Karras", model, **options) < tolerance(name)


def test_ancestral_steps_split_the_variance_as_k_diffusion_does(k_diffusion: ModuleType) -> None:
    from sdforge.sampling.step_math import ancestral_step

    for sigma, sigma_next, eta in [(14.6, 9.0, 1.0), (2.0, 1.9, 0.5), (1.0, 0.1, 1.5), (1, 0, 1)]:
        down, up = ancestral_step(sigma, sigma_next, eta)
        expected = k_diffusion.sampling.get_ancestral_step(float(sigma), float(sigma_next), eta)
        assert (down, up) == pytest.approx(expected, abs=1e-9)
        assert math.hypot(down, up) == pytest.approx(sigma_next)


@pytest.mark.parametrize("steps", [2, 5, 20, 33])
@pytest.mark.parametrize(
    ("label", "function", "rho"),
    [
        ("Karras", "get_sigmas_karras", 0.0),
        ("Karras", "get_sigmas_karras", 5.0),
        ("Exponential", "get_sigmas_exponential", 0.0),
        ("Polyexponential", "get_sigmas_polyexponential", 0.0),
        ("Polyexponential", "get_sigmas_polyexponential", 0.7),
    ],
)
def test_schedule_equals_k_diffusions_to_the_last_bit(
    k_diffusion: ModuleType, label: str, function: str, rho: float, steps: int, model: ModelSigmas
) -> None:
    more = {"rho": rho} if rho else {}
    expected = getattr(k_diffusion.sampling, function)(
        steps, model.sigma_min, model.sigma_max, **more
    )
    assert make_sigmas(label, steps, model, rho=rho) == tuple(expected.tolist())


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
def test_uniform_equals_k_diffusions_discrete_schedule(
    k_diffusion: ModuleType, steps: int, model: ModelSigmas
) -> None:
    discrete = k_diffusion.external.DiscreteSchedule(torch.tensor(model.sigmas), quantize=False)
    expected = discrete.get_sigmas(steps).tolist()
    assert make_sigmas("Uniform", steps, model) == pytest.approx(expected, rel=2e-6)
