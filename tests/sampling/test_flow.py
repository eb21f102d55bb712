"""Samplers and schedules on flow models: latents (1 − sigma)·clean + sigma·noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch

from sdforge.sampling.flow_sigmas import FlowSigmas, flux_shift
from sdforge.sampling.names import schedule_labels
from sdforge.sampling.noise import ImageNoise
from sdforge.sampling.registry import SAMPLERS, SamplerOptions, SamplerSpec, StepInfo
from sdforge.sampling.sigmas import make_sigmas
from sdforge.sampling.step_math import ancestral

MEAN, SPREAD = 0.4, 0.8
SHAPE = (4, 24, 24)
SEEDS = [11, 12]
FLOW = FlowSigmas(3.0)
LABELS = [label for label in schedule_labels() if label != "Automatic"]
NOISY_AT_ANY_ETA = ("LCM", "DDPM", "ER SDE", "Restart")

every_sampler = pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.name)


def gaussian_denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
    signal = 1 - sigma
    gain = signal * SPREAD**2 / (signal**2 * SPREAD**2 + sigma**2)
    return MEAN + gain * (x - signal * MEAN)


def exact_end(x: torch.Tensor, sigma: float, sigma_end: float = 0.0) -> torch.Tensor:
    def deviation(sigma: float) -> float:
        return math.hypot((1 - sigma) * SPREAD, sigma)

    middle = (1 - sigma_end) * MEAN
    return middle + (x - (1 - sigma) * MEAN) * (deviation(sigma_end) / deviation(sigma))


def walk(
    spec: SamplerSpec, sigmas: Sequence[float], seen: list[StepInfo] | None = None, **values: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the noise that was begun with, and the result."""
    noise = ImageNoise(seeds=SEEDS, shape=SHAPE)
    x = noise.initial()
    low = min(sigma for sigma in sigmas if sigma > 0)
    source = noise.brownian(low, sigmas[0]) if spec.brownian else noise
    denoiser = exact_end if spec.name == "LCM" else gaussian_denoiser
    told = [] if seen is None else seen
    options = SamplerOptions(model=FLOW, **values)
    return x, spec.function(denoiser, x, sigmas, source, told.append, options)


def schedule_of(spec: SamplerSpec, steps: int) -> tuple[float, ...]:
    skip_type = "time_uniform" if spec.skip_types else ""
    return make_sigmas("Simple", steps, FLOW, timesteps=spec.timesteps, skip_type=skip_type)


@pytest.mark.parametrize(
    "spec",
    [spec for spec in SAMPLERS if spec.name not in NOISY_AT_ANY_ETA],
    ids=lambda spec: spec.name,
)
def test_without_new_noise_it_converges_to_the_exact_solution(spec: SamplerSpec) -> None:
    errors = []
    for steps in (20, 100):
        sigmas = schedule_of(spec, steps)
        seen: list[StepInfo] = []
        x, result = walk(spec, sigmas, seen, eta=0.0)
        exact = exact_end(x, 1.0, seen[-1].sigma_next)
        errors.append(float((result - exact).abs().mean()))
    assert errors[0] < 0.12
    assert errors[1] < (0.03 if spec.name == "DPM adaptive" else 0.014)


@every_sampler
def test_with_new_noise_the_result_has_the_distribution_of_the_data(spec: SamplerSpec) -> None:
    if spec.name == "TCD":
        pytest.skip("it leaps past the next timestep, which only models made for it can follow")
    _, result = walk(spec, schedule_of(spec, 100), eta=1.0)
    assert abs(float(result.mean()) - MEAN) < 5 * SPREAD / math.sqrt(result.numel()) + 0.005
    assert abs(float(result.std()) - SPREAD) < 0.05


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 4, 20])
def test_few_steps_give_numbers_and_steps_are_told_in_the_flows_own_sigmas(
    spec: SamplerSpec, steps: int
) -> None:
    sigmas = schedule_of(spec, steps)
    seen: list[StepInfo] = []
    _, result = walk(spec, sigmas, seen, s_churn=5.0)
    assert torch.isfinite(result).all()
    assert torch.equal(seen[-1].x, result)
    assert all(0 <= info.sigma_next <= 1 and 0 < info.sigma <= 1 for info in seen)
    assert seen[0].sigma == pytest.approx(1.0, abs=2e-4)
    if not spec.only_ends:
        assert seen[-1].sigma_next == 0.0


@pytest.mark.parametrize("name", ["Euler", "Heun", "DPM2", "HeunPP2"])
def test_churned_latents_have_the_noise_that_is_told(name: str) -> None:
    seen: list[float] = []

    def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
        expected = math.hypot((1 - sigma) * SPREAD, sigma)
        seen.append(float((x - (1 - sigma) * MEAN).std()) / expected)
        return gaussian_denoiser(x, sigma)

    noise = ImageNoise(seeds=SEEDS, shape=SHAPE)
    SAMPLERS.get(name).function(
        denoiser, noise.initial(), make_sigmas("Simple", 60, FLOW), noise, lambda info: None,
        SamplerOptions(model=FLOW, s_churn=20.0),
    )  # fmt: skip
    assert seen == pytest.approx([1.0] * len(seen), abs=0.13)


def test_ancestral_steps_keep_signal_and_noise_at_1() -> None:
    """ComfyUI's rule for rectified flow: eta shortens the way on, the latents shrink to match."""
    options = SamplerOptions(model=FLOW, eta=0.6)
    step = ancestral(0.8, 0.5, options)
    assert step.down == pytest.approx(0.5 * (1 + (0.5 / 0.8 - 1) * 0.6))
    assert step.keep == pytest.approx(0.5 / (1 - step.down))
    assert math.hypot(step.keep * step.down, step.up) == pytest.approx(0.5)
    assert ancestral(0.8, 0.0, options).up == 0.0


def test_sigmas_are_shifted_shares() -> None:
    for shift in (1.0, 3.0, 0.5):
        flow = FlowSigmas(shift)
        assert flow.sigma_max == flow.sigmas[-1] == 1.0
        for t in (0, 1, 499, 998):
            share = (t + 1) / 1000
            assert flow.sigmas[t] == pytest.approx(shift * share / (1 + (shift - 1) * share))
            assert flow.sigma_to_t(flow.sigmas[t]) == pytest.approx(t)
        assert list(flow.sigmas) == sorted(flow.sigmas)
    assert FlowSigmas(1.0).t_to_sigma(-5) == 0.001
    for unusable in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="above 0"):
            FlowSigmas(unusable)


@pytest.mark.parametrize(
    ("width", "height", "mu"), [(256, 256, 0.5), (1024, 1024, 1.15), (512, 512, 0.63)]
)
def test_fluxs_shift_grows_with_the_picture(width: int, height: int, mu: float) -> None:
    """Mu as Black Forest Labs publish it: a line from 0.5 at 256 tokens to 1.15 at 4096."""
    assert math.log(flux_shift(width // 16 * height // 16)) == pytest.approx(mu)
    time = 0.37
    published = math.exp(mu) / (math.exp(mu) + (1 / time - 1))
    flow = FlowSigmas(flux_shift(width // 16 * height // 16))
    assert flow.t_to_sigma(1000 * time - 1) == pytest.approx(published)


@pytest.mark.parametrize("steps", [1, 2, 4, 20, 50])
@pytest.mark.parametrize("label", LABELS)
def test_every_schedule_falls_from_1(label: str, steps: int) -> None:
    sigmas = make_sigmas(label, steps, FLOW)
    assert all(early > late for early, late in pairwise(sigmas))
    if label != "DDIM":  # it begins where a whole number of strides ends
        assert sigmas[0] == pytest.approx(1.0, rel=1e-6)
    assert sigmas[-1] == (0.0 if label != "KL Optimal" else pytest.approx(FLOW.sigma_min))


def test_simple_is_the_flows_own_even_walk() -> None:
    """SD3's and Flux's own: t = 1, 1 − 1/n … 1/n, shifted."""
    shares = [1 - index / 8 for index in range(8)]
    expected = [3 * share / (1 + 2 * share) for share in shares] + [0.0]
    assert make_sigmas("Simple", 8, FLOW) == pytest.approx(expected, abs=1e-6)
