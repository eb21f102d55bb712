from __future__ import annotations

import pytest
import torch

from sdforge.sampling.guidance import UncondSkips, cancels_uncond, guide
from sdforge.sampling.sampler import denoise_with_uncond

COND, OTHER, UNCOND = (torch.tensor(row) for row in ([1.0, 3.0], [-4.0, 0.5], [2.0, -1.0]))


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 7.0, 30.0])
def test_guidance_goes_from_uncond_to_cond_and_beyond(scale: float) -> None:
    result = guide([COND], UNCOND, [1.0], scale)
    assert torch.allclose(result, UNCOND + (COND - UNCOND) * scale, rtol=1e-5)


def test_each_of_several_prompts_pulls_with_its_weight() -> None:
    result = guide([COND, OTHER], UNCOND, [1.0, -0.5], 4.0)
    expected = UNCOND + 4.0 * (COND - UNCOND) - 2.0 * (OTHER - UNCOND)
    assert torch.allclose(result, expected)
    one = guide([COND], UNCOND, [0.5], 4.0)
    assert torch.allclose(one, UNCOND + 2.0 * (COND - UNCOND))


def test_pictures_of_a_batch_may_have_weights_of_their_own() -> None:
    conds = torch.randn(2, 2, 4, 3, 3)
    uncond = torch.randn(2, 4, 3, 3)
    weights = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    result = guide(list(conds), uncond, [row.view(-1, 1, 1, 1) for row in weights], 3.0)
    for picture in (0, 1):
        alone = guide(list(conds[:, picture]), uncond[picture], weights[:, picture].tolist(), 3.0)
        assert torch.allclose(result[picture], alone, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "scale", "expected"),
    [
        ([1.0], 1.0, True),
        ([1.0], 7.0, False),
        ([1.0], 0.0, False),
        ([0.5], 2.0, True),
        ([0.5, 0.5], 1.0, True),
        ([1.0, 1.0], 1.0, False),
        ([1.0, -1.0, 1.0], 1.0, True),
    ],
)
def test_uncond_cancels_when_the_shares_add_up_to_one(
    weights: list[float], scale: float, expected: bool
) -> None:
    assert cancels_uncond(weights, scale) is expected
    conds = [COND, OTHER, COND * 2][: len(weights)]
    first, second = (guide(conds, uncond, weights, scale) for uncond in (UNCOND, UNCOND + 9))
    assert torch.allclose(first, second, atol=1e-5) is expected


def skipped(skips: UncondSkips, sigmas: list[float]) -> list[int]:
    return [call for call, sigma in enumerate(sigmas) if skips.skips(call, sigma)]


def test_below_a_sigma_every_second_call_goes_without_the_negative_prompt() -> None:
    sigmas = [14.0, 7.0, 3.0, 2.0, 1.0, 0.5, 0.1]
    assert skipped(UncondSkips(calls=7), sigmas) == []
    assert skipped(UncondSkips(calls=7, below_sigma=3.0), sigmas) == [3, 5]
    assert skipped(UncondSkips(calls=7, below_sigma=3.0, every_call=True), sigmas) == [3, 4, 5, 6]


def test_the_first_share_of_the_calls_can_go_without_it() -> None:
    assert skipped(UncondSkips(calls=10, early_share=0.2), [1.0] * 10) == [0, 1, 2]


def test_where_nothing_guides_both_guesses_are_the_same() -> None:
    first, second = denoise_with_uncond(lambda x, sigma: x * sigma, COND, 2.0)
    assert first is second
    assert torch.equal(first, COND * 2)
