"""Soft masks: what they let change, when, and where the result shows it."""

from __future__ import annotations

import torch

from sdforge.sampling.soft_inpainting import blend_by_detail, changed_mask, mask_at

CHOSEN = {"strength": 0.5, "influence": 0.0, "threshold": 0.5, "contrast": 2.0}


def latents(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 12, 10, generator=torch.Generator().manual_seed(seed))


def test_grey_is_kept_early_and_free_late_and_ends_stay_what_they_are() -> None:
    mask = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    seen = [mask_at(mask, sigma, bias=1.0, strength=0.5).flatten() for sigma in (10.0, 1.0, 0.1)]
    for one in seen:
        assert (one[0], one[2]) == (0, 1)
    grey = [float(one[1]) for one in seen]
    assert grey == sorted(grey)
    assert abs(grey[1] - 0.5**0.5) < 1e-6
    assert float(mask_at(mask, 2.0, bias=1.0, strength=0.0)[..., 1]) == 1.0


def test_a_blend_is_exact_where_the_mask_is_and_longer_than_the_plain_one_between() -> None:
    source, drawn = latents(1), latents(2)
    for mask, wanted in ((0.0, source), (1.0, drawn)):
        made = blend_by_detail(source, drawn, torch.full((1, 1, 12, 10), mask), boost=4.0)
        assert torch.allclose(made, wanted, atol=1e-4)
    half = torch.full((1, 1, 12, 10), 0.5)
    made = blend_by_detail(source, drawn, half, boost=4.0)
    plain = (source + drawn) / 2
    directions = torch.cosine_similarity(made, plain, dim=1)
    assert directions.min() > 0.999
    lengths = (source.norm(dim=1) ** 4 / 2 + drawn.norm(dim=1) ** 4 / 2) ** 0.25
    assert torch.allclose(made.norm(dim=1), lengths, rtol=1e-3)


def test_the_result_shows_what_changed_and_the_source_where_nothing_did() -> None:
    source = latents(3)
    drawn = source.clone()
    drawn[:, :, :, 6:] += 3
    shown = changed_mask(source, drawn, torch.full((1, 1, 12, 10), 0.7), **CHOSEN)
    assert shown.shape == (2, 12, 10)
    assert shown[:, :, :2].max() < 1e-4
    assert shown[:, :, 8:].min() > 0.95
    assert 0 <= shown.min() <= shown.max() <= 1


def test_a_higher_threshold_shows_less_and_influence_follows_the_mask() -> None:
    source, mask = latents(4), torch.linspace(0, 1, 10).view(1, 1, 1, 10).expand(1, 1, 12, 10)
    drawn = source + 0.6
    low = changed_mask(source, drawn, mask, **CHOSEN)
    high = changed_mask(source, drawn, mask, **(CHOSEN | {"threshold": 4.0}))
    assert high.mean() < low.mean()
    led = changed_mask(source, drawn, mask, **(CHOSEN | {"influence": 1.0}))
    assert led[:, :, 0].max() < led[:, :, -1].min()
    for edge in ({"threshold": 0.0}, {"contrast": 0.0}):
        assert torch.isfinite(changed_mask(source, drawn, mask, **(CHOSEN | edge))).all()
