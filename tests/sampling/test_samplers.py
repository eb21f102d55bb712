"""What holds for every sampler: it solves the equation, repeats itself and can be stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from sdforge.core.errors import Cancelled
from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.noise import ImageNoise
from sdforge.sampling.registry import (
    SAMPLERS,
    Denoiser,
    Noise,
    SamplerOptions,
    SamplerSpec,
    StepInfo,
)
from sdforge.sampling.sigmas import make_sigmas
from tests.sampling.conftest import StableDiffusionSigmas

# Data drawn from N(MEAN, SPREAD²): its best denoiser, the paths of the probability-flow equation
# and the distribution at any sigma are known in closed form.
MEAN, SPREAD = 0.4, 0.8
SHAPE = (4, 24, 24)
SEEDS = [11, 12]

# They draw noise whatever eta is.
NOISY_AT_ANY_ETA = ("LCM", "DDPM", "ER SDE", "Restart")
# They are for models that guess where the path ends, and exact with those alone.
FOR_DISTILLED_MODELS = ("LCM", "TCD")
# Its steps follow an error that is measured over the whole batch.
DEPENDS_ON_ITS_BATCH = "DPM adaptive"

every_sampler = pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.name)
every_deterministic_sampler = pytest.mark.parametrize(
    "spec",
    [spec for spec in SAMPLERS if spec.name not in NOISY_AT_ANY_ETA],
    ids=lambda spec: spec.name,
)
MODEL = StableDiffusionSigmas()


def gaussian_denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return (x * SPREAD**2 + MEAN * sigma**2) / (SPREAD**2 + sigma**2)


def exact_end(x: torch.Tensor, sigma: float, sigma_end: float) -> torch.Tensor:
    ratio = math.sqrt((SPREAD**2 + sigma_end**2) / (SPREAD**2 + sigma**2))
    return MEAN + (x - MEAN) * ratio


def end_of_the_path(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """What a perfectly distilled model guesses."""
    return exact_end(x, sigma, 0.0)


def options_of(**values: Any) -> SamplerOptions:
    return SamplerOptions(model=MODEL, **values)


def schedule_of(spec: SamplerSpec, steps: int, model: ModelSigmas) -> tuple[float, ...]:
    label = "DDIM" if spec.timesteps else "Karras"
    skip_type = "time_uniform" if spec.skip_types else ""
    return make_sigmas(label, steps, model, timesteps=spec.timesteps, skip_type=skip_type)


def end_of(spec: SamplerSpec, sigmas: Sequence[float]) -> tuple[float, float]:
    """Return the sigma that a sampler ends at, and the scale that it leaves the latents in."""
    least = min(sigma for sigma in sigmas if sigma > 0)
    if spec.timesteps:
        return least, 1 / math.sqrt(1 + least**2)
    return (least if spec.only_ends else sigmas[-1]), 1.0


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
    denoiser: Denoiser = gaussian_denoiser,
) -> torch.Tensor:
    x, noise = start(sigmas, spec)
    seen = steps_seen if steps_seen is not None else []
    return spec.function(denoiser, x, sigmas, noise, seen.append, options)


def error(spec: SamplerSpec, steps: int, model: ModelSigmas) -> float:
    sigmas = schedule_of(spec, steps, model)
    end, scale = end_of(spec, sigmas)
    exact = exact_end(start(sigmas, spec)[0], sigmas[0], end) * scale
    result = run(spec, sigmas, options_of(eta=0.0))
    return float((result - exact).abs().mean())


@every_deterministic_sampler
def test_without_new_noise_it_converges_to_the_exact_solution(
    spec: SamplerSpec, model: ModelSigmas
) -> None:
    errors = [error(spec, steps, model) for steps in (20, 40, 100)]
    if spec.name == "DPM adaptive":
        assert errors[0] == errors[1] == errors[2] < 0.03  # it takes as many steps as it likes
        return
    assert errors[0] < 0.12
    assert errors[2] < 0.012
    # What the step to 0 leaves is the same for all.
    assert errors[0] > errors[1] > errors[2] or errors[2] < 0.0005


SECOND_ORDER = (
    "DEIS", "DPM fast", "DPM++ 2M CFG++", "DPM++ 2M SDE Heun", "DPM++ 2M SDE", "DPM++ 2M",
    "DPM++ 2S a", "DPM++ 3M SDE", "DPM++ SDE", "DPM2 a", "DPM2", "Heun", "IPNDM", "IPNDM_V", "LMS",
    "RES Multistep", "RES Multistep a", "RES Multistep CFG++",
)  # fmt: skip


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
    end, scale = end_of(spec, sigmas)
    is_distilled = spec.name in FOR_DISTILLED_MODELS
    if spec.name == "TCD":
        pytest.skip("it leaps past the next timestep, which only models made for it can follow")
    guess = end_of_the_path if is_distilled else gaussian_denoiser
    result = run(spec, sigmas, options_of(eta=eta), denoiser=guess) / scale
    spread, count = math.hypot(SPREAD, end), math.sqrt(result.numel())
    assert abs(float(result.mean()) - MEAN) < 5 * spread / count
    assert abs(float(result.std()) - spread) < 4 * spread / count + 0.02


@pytest.mark.parametrize(
    "name",
    [row.name for row in SAMPLERS if row.uses_noise and row.name not in NOISY_AT_ANY_ETA]
    + ["DDIM", "DDIM CFG++"],
)
def test_eta_changes_the_picture_of_stochastic_samplers(name: str, model: ModelSigmas) -> None:
    spec = SAMPLERS.get(name)
    sigmas = schedule_of(spec, 10, model)
    results = [run(spec, sigmas, options_of(eta=eta)) for eta in (0.0, 0.5, 1.0)]
    assert not torch.allclose(results[0], results[1], atol=1e-2)
    assert not torch.allclose(results[1], results[2], atol=1e-2)


@pytest.mark.parametrize(
    "name", [row.name for row in SAMPLERS if not row.uses_noise and not row.name.startswith("DDIM")]
)
def test_eta_and_s_noise_change_nothing_where_no_noise_is_drawn(
    name: str, model: ModelSigmas
) -> None:
    spec = SAMPLERS.get(name)
    sigmas = schedule_of(spec, 10, model)
    plain = run(spec, sigmas, options_of(eta=0.0))
    assert torch.equal(plain, run(spec, sigmas, options_of(eta=1.0, s_noise=1.1)))


@every_sampler
def test_the_same_seeds_give_the_same_bits(spec: SamplerSpec, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, 8, model)
    options = options_of(s_churn=4.0)
    assert torch.equal(run(spec, sigmas, options), run(spec, sigmas, options))


@every_sampler
def test_a_picture_does_not_depend_on_its_batch(spec: SamplerSpec, model: ModelSigmas) -> None:
    if spec.name == DEPENDS_ON_ITS_BATCH:
        pytest.skip("its step widths follow the error of the whole batch, as in k-diffusion")
    sigmas = schedule_of(spec, 8, model)

    def sample(seeds: list[int]) -> torch.Tensor:
        noise = ImageNoise(seeds=seeds, shape=SHAPE)
        x = noise.initial() * sigmas[0]
        source = noise.brownian(sigmas[-2], sigmas[0]) if spec.brownian else noise
        return spec.function(gaussian_denoiser, x, sigmas, source, lambda info: None, options_of())

    assert torch.allclose(sample([3, 4])[1:], sample([4]), atol=1e-6)


@every_sampler
def test_what_on_step_raises_ends_the_walk_at_once(spec: SamplerSpec, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, 10, model)
    x, noise = start(sigmas, spec)
    calls, told = 0, [0]

    def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gaussian_denoiser(x, sigma)

    def stop(info: StepInfo) -> None:
        told.append(calls)
        if info.index == 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        spec.function(denoiser, x, sigmas, noise, stop, options_of())
    assert calls == told[-1]
    most = 3 if spec.name == "HeunPP2" else 2
    assert max(b - a for a, b in pairwise(told)) <= most
    if spec.second_order:
        assert calls == 6


@every_sampler
def test_every_step_is_told_once_and_in_order(spec: SamplerSpec, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, 10, model)
    seen: list[StepInfo] = []
    result = run(spec, sigmas, options_of(), seen)
    end, scale = end_of(spec, sigmas)
    steps = len(sigmas) - (2 if spec.timesteps and not spec.skip_types else 1)
    if spec.name == "DPM adaptive":
        assert {info.steps for info in seen} == {0}
    else:
        assert {info.steps for info in seen} == {steps}
        assert len(seen) == steps
    assert [info.index for info in seen] == list(range(len(seen)))
    if not spec.only_ends:
        assert [info.sigma for info in seen] == list(sigmas[:steps])
        assert [info.sigma_next for info in seen] == list(sigmas[1 : steps + 1])
    assert seen[-1].sigma_next == pytest.approx(end)
    assert torch.allclose(seen[-1].x * scale, result)
    x, _ = start(sigmas, spec)
    assert torch.allclose(seen[0].denoised, gaussian_denoiser(x, sigmas[0]))


@every_sampler
def test_x_has_the_noise_that_the_step_tells(spec: SamplerSpec, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, 40, model)
    seen: list[StepInfo] = []
    run(spec, sigmas, options_of(), seen)
    half = seen[len(seen) // 2]
    expected = math.hypot(SPREAD, half.sigma_next)
    # LCM's guesses are means, without the spread of the data.
    low = half.sigma_next if spec.name in FOR_DISTILLED_MODELS else expected
    assert 0.9 * low < float((half.x - MEAN).std()) < 1.1 * expected


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

    spec.function(gaussian_denoiser, x, sigmas, noise, keep, options_of(s_churn=3.0))
    assert torch.equal(x, before)
    assert all(torch.equal(tensor, copy) for tensor, copy in told)


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_give_numbers(spec: SamplerSpec, steps: int, model: ModelSigmas) -> None:
    sigmas = schedule_of(spec, steps, model)
    result = run(spec, sigmas, options_of(s_churn=10.0))
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
    if spec.name in NOISY_AT_ANY_ETA:
        seen: list[StepInfo] = []
        spec.function(gaussian_denoiser, x, sigmas, noise, seen.append, options_of())
        assert seen[-1].sigma_next == pytest.approx(sigmas[-1])
        return
    result = spec.function(
        gaussian_denoiser, x, sigmas, noise, lambda info: None, options_of(eta=0.0)
    )
    scale = 1 / math.sqrt(1 + sigmas[-1] ** 2) if spec.timesteps else 1.0
    exact = exact_end(x, sigmas[0], sigmas[-1]) * scale
    assert float((result - exact).abs().mean()) < 0.05


@pytest.mark.parametrize("name", ["Euler", "Heun"])
def test_churn_stays_within_its_limits(name: str, model: ModelSigmas) -> None:
    spec = SAMPLERS.get(name)
    sigmas = schedule_of(spec, 20, model)
    plain = run(spec, sigmas, options_of())
    out_of_reach = options_of(s_churn=10.0, s_tmin=100.0)
    assert torch.equal(run(spec, sigmas, out_of_reach), plain)
    assert not torch.allclose(run(spec, sigmas, options_of(s_churn=10.0)), plain, atol=1e-2)
    early = options_of(s_churn=10.0, s_tmin=sigmas[3])
    late = options_of(s_churn=10.0, s_tmax=sigmas[4])
    assert not torch.allclose(run(spec, sigmas, early), run(spec, sigmas, late), atol=1e-2)
