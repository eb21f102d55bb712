"""The rules of guidance against diffusers' guiders, and what each is for."""

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.guiders.guider_utils import rescale_noise_cfg

from sdforge.sampling.guidance_rules import (
    ProjectedGuidance,
    blurred_where,
    mimicked,
    perpendicular_negative,
    rescaled,
    zero_star,
)

SHAPE = (2, 4, 8, 6)
SIGMA = 3.0


def some(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def velocity(x: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
    alpha, deviation = 1 / (1 + SIGMA**2) ** 0.5, SIGMA / (1 + SIGMA**2) ** 0.5
    epsilon = (x - denoised) / SIGMA
    return alpha * epsilon - deviation * denoised


def test_rescaling_is_the_papers_on_velocities() -> None:
    x, cond, guided = some(0) * SIGMA, some(1), some(2) * 4
    expected = rescale_noise_cfg(velocity(x, guided), velocity(x, cond), 0.7)
    result = rescaled(x, SIGMA, cond, guided, 0.7)
    torch.testing.assert_close(velocity(x, result), expected)


def test_no_rescaling_changes_nothing() -> None:
    x, cond, guided = some(0), some(1), some(2)
    torch.testing.assert_close(rescaled(x, SIGMA, cond, guided, 0.0), guided)


def test_projected_guidance_is_diffusers_over_several_steps() -> None:
    rule = ProjectedGuidance(eta=0.3, norm_threshold=2.5, momentum=-0.5)
    buffer = MomentumBuffer(-0.5)
    for step in range(3):
        cond, uncond = some(10 + step), some(20 + step)
        expected = normalized_guidance(
            cond, uncond, 6.0, buffer, 0.3, 2.5, use_original_formulation=True
        )
        torch.testing.assert_close(rule(cond, uncond, 7.0), expected)


def test_projected_guidance_without_its_changes_is_plain_guidance() -> None:
    rule = ProjectedGuidance(eta=1.0, norm_threshold=0.0, momentum=0.0)
    cond, uncond = some(1), some(2)
    torch.testing.assert_close(rule(cond, uncond, 7.0), uncond + 7.0 * (cond - uncond))


def test_zero_star_is_diffusers() -> None:
    x, cond, uncond = some(0) * SIGMA, some(1), some(2)
    first, second = ((x - guess) / SIGMA for guess in (cond, uncond))
    scale = cfg_zero_star_scale(first.flatten(1), second.flatten(1)).view(-1, 1, 1, 1).double()
    expected = second * scale + 7.0 * (first - second * scale)
    result = (x - zero_star(x, SIGMA, cond, uncond, 7.0)) / SIGMA
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_a_negative_that_asks_for_the_same_takes_nothing_away() -> None:
    empty, wanted = some(0), some(1)
    result = perpendicular_negative(empty, empty + wanted, empty + 0.4 * wanted, 5.0, 1.0)
    torch.testing.assert_close(result, empty + 5.0 * wanted)


def test_a_negative_that_asks_for_something_else_is_taken_away() -> None:
    empty, wanted, other = torch.zeros(SHAPE), torch.zeros(SHAPE), torch.zeros(SHAPE)
    wanted[:, 0], other[:, 1] = 1.0, 2.0
    result = perpendicular_negative(empty, wanted, other, 5.0, 0.5)
    torch.testing.assert_close(result, 5.0 * (wanted - 0.5 * other))


@pytest.mark.parametrize("by_channel", [True, False])
@pytest.mark.parametrize("by_deviation", [True, False])
def test_mimicking_ones_own_scale_is_plain_guidance(by_channel: bool, by_deviation: bool) -> None:
    cond, uncond = some(1), some(2)
    result = mimicked(
        cond,
        uncond,
        cfg_scale=7.0,
        mimic_scale=7.0,
        by_channel=by_channel,
        by_deviation=by_deviation,
    )
    torch.testing.assert_close(result, uncond + 7.0 * (cond - uncond))


def test_a_strong_scale_keeps_the_range_of_the_mimicked_one() -> None:
    cond, uncond = some(1), some(2)
    result = mimicked(cond, uncond, cfg_scale=30.0, mimic_scale=7.0, percentile=0.99)
    gentle = uncond + 7.0 * (cond - uncond)

    def reach(values: torch.Tensor) -> torch.Tensor:
        flat = values.flatten(2)
        return (flat - flat.mean(-1, keepdim=True)).abs().amax(-1)

    strong = uncond + 30.0 * (cond - uncond)
    assert (reach(strong) > 3 * reach(gentle)).all()
    # Cutting moves the mean a little, so the range around the new mean may be a little wider.
    assert (reach(result) <= reach(gentle) * 1.2).all()


def test_half_the_share_is_halfway_to_plain_guidance() -> None:
    cond, uncond = some(1), some(2)
    whole, half = (
        mimicked(cond, uncond, cfg_scale=20.0, mimic_scale=5.0, amount=amount)
        for amount in (1.0, 0.5)
    )
    plain = uncond + 20.0 * (cond - uncond)
    torch.testing.assert_close(half, (whole + plain) / 2)


def test_only_places_that_are_attended_to_are_blurred() -> None:
    clean = some(3)
    # A map of half the size: everybody looks at its first place only.
    attention = torch.zeros(2, 1, 12, 12, dtype=torch.float64)
    attention[..., 0] = 1.0
    result = blurred_where(clean, attention, threshold=1.0, sigma=2.0)
    changed = (result != clean).any(1)
    assert changed[:, :2, :2].all()
    changed[:, :2, :2] = False
    assert not changed.any()


def test_a_blur_keeps_what_is_even() -> None:
    clean = torch.full(SHAPE, 2.5, dtype=torch.float64)
    attention = torch.full((2, 1, 12, 12), 1.0, dtype=torch.float64)
    result = blurred_where(clean, attention, threshold=0.5, sigma=2.0)
    torch.testing.assert_close(result, clean)
