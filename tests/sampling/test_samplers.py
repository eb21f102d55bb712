"""What holds for every sampler: it solves the equation, repeats itself and can be stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from sdforge.core.errors import Cancelled
from sdforge.sampling.noise import ImageNoise
from sdforge.sampling.registry import SAMPLERS, Noise, SamplerOptions, SamplerSpec, StepInfo
from sdforge.sampling.sigmas import ModelSigmas, make_sigmas

# Data drawn from N(MEAN, SPREAD²): its best denoiser, the paths of the probability-flow equation
# and the distribution at any sigma are known in closed form.
MEAN, SPREAD = 0.4, 0.8
SHAPE = (4, 24, 24)
SEEDS = [11, 12]

every_sampler = pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.name)


def gaussian_denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return (x * SPREAD**2 + MEAN * sigma**2) / (SPREAD**2 + sigma**2)


def exact_end(x: torch.Tensor, sigma: float, sigma_end: float) -> torch.Tensor:
    ratio = math.sqrt((SPREAD**2 + sigma_end**2) / (SPREAD**2 + sigma**2))
    return MEAN + (x - MEAN) * ratio


def schedule_of(spec: SamplerSpec, steps: int, model: ModelSigmas) -> tuple[float, ...]:
    label = "DDIM" if spec.timesteps else "Karras"
    return make_sigmas(label, steps, model, timesteps=spec.timesteps)


def end_of(spec: SamplerSpec, sigmas: Sequence[float]) -> tuple[float, float]:
    """Return the sigma that a sampler ends at, and the scale that it leaves the latents in."""
    if not spec.timesteps:
        return sigmas[-1], 1.0
    return sigmas[-2], 1 / math.sqrt(1 + sigmas[-2] ** 2)


def start(sigmas: Sequence[float], spec: SamplerSpec) -> tuple[torch.Tensor, Noise]:
    noise = ImageNoise(seeds=SEEDS, shape=SHAPE)
    x = MEAN + noise.initial() * math.sqrt(SPREAD**2 + sigmas[0] ** 2)
    if spec.brownian:
        return x, noise.brownian(min(sigma for sigma in sigmas if sigma > 0), sigmas[0])
    return x, noise


def run(
    spec: SamplerSpec,
    sigmas: Sequence[float],
    options: SamplerOptions,
    steps_seen: list[StepInfo] | None = None,
) -> torch.Tensor:
    x, noise = start(sigmas, spec)
    seen = steps_seen if steps_seen is not None else []
    return spec.function(gaussian_denoiser, x, sigmas, noise, seen.append, options)


def error(spec: SamplerSpec, steps: int, model: ModelSigmas) -> float:
    sigmas = schedule_of(spec, steps, model)
    end, scale = end_of(spec, sigmas)
    exact = exact_end(start(sigmas, spec)[0], sigmas[0], end) * scale
    result = run(spec, sigmas, SamplerOptions(eta=0.0))
    return float((result - exact).abs().mean())


@every_sampler
def test_without_new_noise_it_converges_to_the_exact_solution(
    spec: SamplerSpec, model: ModelSigmas
) -> None:
    errors = [error(spec, steps, model) for steps in (20, 40, 100)]
    assert errors[0] < 0.12
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.012


SECOND_ORDER = ("Heun", "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "LMS")


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_samplers_of_second_order_gain_more_than_twofold_from_twice_the_steps(
    name: str, model: ModelSigmas
) -> None:
    spec = SAMPLERS.get(name)
    assert error(spec, 20, model) / error(spec, 40, model) > 2.5
    assert error(spec, 20, model) < error(SAMPLERS.get("Euler"), 20, model)


@every_sampler
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_with_new_noise_the_result_has_the_distribution_of_the_data(
    spec: SamplerSpec, eta: float, model: ModelSigmas
) -> None:
    sigmas = schedule_of(spec, 100, model)
    _, scale = end_of(spec, sigmas)
    result = run(spec, sigmas, SamplerOptions(eta=eta)) / scale
    count = math.sqrt(result.numel())
    assert abs(float(result.mean()) - MEAN) < 5 * SPREAD / count
    assert abs(float(result.std()) - SPREAD) < 4 * SPREAD / count + 0.02


@pytest.mark.parametrize("name", [row.name for row in SAMPLERS if row.uses_noise] + ["DDIM"])
def test_eta_changes_the_picture_of_stochastic_samplers(name: str, model: ModelSigmas) -> None:
    spec = SAMPLERS.get(name)
    sigmas = schedule_of(spec, 10, model)
    results = [run(spec, sigmas, SamplerOptions(eta=eta)) for eta in (0.0, 0.5, 1.0)]
    assert not torch.allclose(results[0], results[1], atol=1e-2)
    assert not torch.allclose(results[1], results[2], atol=1e-2)


@pytest.mark.parametrize("name", ["Euler", "Heun", "DPM++ 2M", "LMS"])
def test_eta_and_s_noise_change_nothing_where_no_noise_is_drawn(
    name: str, model: ModelSigmas
) -> None:
    spec = SAMPLERS.get(name)
    sigmas = schedule_of(spec, 10, model)
    plain = run(spec, sigmas, SamplerOptions(eta=0.0))
    assert torch.equal(plain, run(spec, sigmas, SamplerOptions(eta=1.0, s_noise=1.1)))


@every_sampler
def test_the_same_seeds_give_the_same_bits(spec: SamplerSpec, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, 8, model)
    options = SamplerOptions(s_churn=4.0)
    assert torch.equal(run(spec, sigmas, options), run(spec, sigmas, options))


@every_sampler
def test_a_picture_does_not_depend_on_its_batch(spec: SamplerSpec, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, 8, model)

    def sample(seeds: list[int]) -> torch.Tensor:
        noise = ImageNoise(seeds=seeds, shape=SHAPE)
        x = noise.initial() * sigmas[0]
        source = noise.brownian(sigmas[-2], sigmas[0]) if spec.brownian else noise
        return spec.function(
            gaussian_denoiser, x, sigmas, source, lambda info: None, SamplerOptions()
        )

    assert torch.allclose(sample([3, 4])[1:], sample([4]), atol=1e-6)


@every_sampler
def test_what_on_step_raises_ends_the_walk_at_once(spec: SamplerSpec, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, 10, model)
    x, noise = start(sigmas, spec)
    calls = 0

    def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gaussian_denoiser(x, sigma)

    def stop(info: StepInfo) -> None:
        if info.index == 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        spec.function(denoiser, x, sigmas, noise, stop, SamplerOptions())
    assert calls == (6 if spec.second_order else 3)


@every_sampler
def test_every_step_is_told_once_and_in_order(spec: SamplerSpec, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, 10, model)
    seen: list[StepInfo] = []
    result = run(spec, sigmas, SamplerOptions(), seen)
    steps = len(sigmas) - (2 if spec.timesteps else 1)
    assert [info.index for info in seen] == list(range(steps))
    assert {info.steps for info in seen} == {steps}
    assert [info.sigma for info in seen] == list(sigmas[:steps])
    _, scale = end_of(spec, sigmas)
    assert torch.allclose(seen[-1].x * scale, result)
    x, _ = start(sigmas, spec)
    assert torch.allclose(seen[0].denoised, gaussian_denoiser(x, sigmas[0]))


@every_sampler
def test_the_latents_handed_in_and_told_are_left_as_they_were(
    spec: SamplerSpec, model: ModelSigmas
) -> None:
    sigmas = schedule_of(spec, 10, model)
    x, noise = start(sigmas, spec)
    before = x.clone()
    told: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(info: StepInfo) -> None:
        told.extend([(info.x, info.x.clone()), (info.denoised, info.denoised.clone())])

    spec.function(gaussian_denoiser, x, sigmas, noise, keep, SamplerOptions(s_churn=3.0))
    assert torch.equal(x, before)
    assert all(torch.equal(tensor, copy) for tensor, copy in told)


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_give_numbers(spec: SamplerSpec, steps: int, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, steps, model)
    result = run(spec, sigmas, SamplerOptions(s_churn=10.0))
    assert torch.isfinite(result).all()
    if steps == 1:
        assert float(result.std()) < 0.1  # one step goes to the mean


@every_sampler
def test_a_schedule_that_ends_above_zero_is_followed_to_its_end(
    spec: SamplerSpec, model: ModelSigmas
) -> None:
    sigmas = make_sigmas("KL Optimal", 40, model)
    assert sigmas[-1] > 0.02
    x, noise = start(sigmas, spec)
    result = spec.function(
        gaussian_denoiser, x, sigmas, noise, lambda info: None, SamplerOptions(eta=0.0)
    )
    scale = 1 / math.sqrt(1 + sigmas[-1] ** 2) if spec.timesteps else 1.0
    exact = exact_end(x, sigmas[0], sigmas[-1]) * scale
    assert float((result - exact).abs().mean()) < 0.05


@pytest.mark.parametrize("name", ["Euler", "Heun"])
def test_churn_stays_within_its_limits(name: str, model: ModelSigmas) -> None:
    spec = SAMPLERS.get(name)
    sigmas = schedule_of(spec, 20, model)
    plain = run(spec, sigmas, SamplerOptions())
    out_of_reach = SamplerOptions(s_churn=10.0, s_tmin=100.0)
    assert torch.equal(run(spec, sigmas, out_of_reach), plain)
    assert not torch.allclose(run(spec, sigmas, SamplerOptions(s_churn=10.0)), plain, atol=1e-2)
    early = SamplerOptions(s_churn=10.0, s_tmin=sigmas[3])
    late = SamplerOptions(s_churn=10.0, s_tmax=sigmas[4])
    assert not torch.allclose(run(spec, sigmas, early), run(spec, sigmas, late), atol=1e-2)
