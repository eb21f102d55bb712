"""The way up, held against pictures whose every line is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdforge.sampling.inversion import invert, mixed_noise, noise_of
from sdforge.sampling.registry import SAMPLERS, SamplerOptions, StepInfo

# Latents of a Gaussian of this deviation: the best guess is known, and so is each line to noise.
DEVIATION = 0.7


def denoiser(x: Tensor, sigma: float) -> Tensor:
    return x * (DEVIATION**2 / (DEVIATION**2 + sigma**2))


def flow_denoiser(x: Tensor, sigma: float) -> Tensor:
    variance = (1 - sigma) ** 2 * DEVIATION**2 + sigma**2
    return x * ((1 - sigma) * DEVIATION**2 / variance)


def clean() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * DEVIATION


def rising(steps: int, top: float = 10.0) -> tuple[float, ...]:
    """Return sigmas from 0, finer near it."""
    return tuple(top * (step / steps) ** 3 for step in range(steps + 1))


def nothing(info: StepInfo) -> None:
    """Look at no step."""


@pytest.mark.parametrize("at_own_level", [False, True])
def test_the_way_up_ends_on_the_line_through_the_picture(at_own_level: bool) -> None:
    x = clean()
    true = x * (1 + (10 / DEVIATION) ** 2) ** 0.5
    away = []
    for steps in (50, 100, 200):
        found = invert(denoiser, x, rising(steps), nothing, at_own_level=at_own_level)
        away.append(float((found - true).abs().mean() / true.abs().mean()))
    # Of first order: twice the steps leave half the error.
    assert away[-1] < 0.05
    assert away[1] / away[0] == pytest.approx(0.5, abs=0.1)
    assert away[2] / away[1] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("at_own_level", [False, True])
def test_a_flow_models_way_up_ends_in_pure_noise(at_own_level: bool) -> None:
    x = clean()
    found = invert(flow_denoiser, x, rising(300, 1.0), nothing, at_own_level=at_own_level)
    assert torch.allclose(found, x / DEVIATION, atol=0.05)


def test_euler_leads_back_to_where_the_way_up_began() -> None:
    x, sigmas = clean(), rising(100)
    found = invert(denoiser, x, sigmas, nothing)
    back = SAMPLERS.get("Euler").function(
        denoiser, found, sigmas[::-1], lambda a, b: torch.zeros_like(x), nothing, SamplerOptions()
    )
    assert float((back - x).abs().mean() / x.abs().mean()) < 0.12


def test_steps_are_told_and_what_they_raise_ends_the_walk() -> None:
    told: list[StepInfo] = []

    def watch(info: StepInfo) -> None:
        told.append(info)
        if info.index == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        invert(denoiser, clean(), rising(8), watch)
    assert [(one.index, one.steps) for one in told] == [(0, 8), (1, 8), (2, 8)]
    assert told[0].sigma == 0 and told[0].sigma_next == told[1].sigma


@pytest.mark.parametrize(("at_own_level", "asked"), [(False, [1, 2, 4]), (True, [1, 1, 2])])
def test_where_slopes_are_taken(at_own_level: bool, asked: list[float]) -> None:
    seen: list[float] = []

    def spy(x: Tensor, sigma: float) -> Tensor:
        seen.append(sigma)
        return denoiser(x, sigma)

    invert(spy, clean(), (0.0, 1.0, 2.0, 4.0), nothing, at_own_level=at_own_level)
    assert seen == asked


def test_noise_has_variance_one_however_much_is_the_seeds() -> None:
    seeded = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    other = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(2)) * 9
    found = noise_of(other, 10.0, by_deviation=True)
    assert found.std(dim=(1, 2, 3)).tolist() == pytest.approx([1, 1])
    assert torch.equal(noise_of(other, 10.0, by_deviation=False), other / 10)
    for share in (0.0, 0.3, 1.0):
        assert float(mixed_noise(found, seeded, share).std()) == pytest.approx(1, abs=0.02)
    assert torch.equal(mixed_noise(found, seeded, 0.0), found)
    assert torch.equal(mixed_noise(found, seeded, 1.0), seeded)
