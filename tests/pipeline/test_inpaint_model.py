"""The five further channels of inpainting checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sdforge.pipeline.inpaint_model import inpainting_channels


def encode(pixels: Tensor) -> Tensor:
    """Stand in for a VAE: means of squares of eight pixels, and their sum as a fourth channel."""
    means = F.avg_pool2d(pixels, 8)
    return torch.cat([means, means.sum(1, keepdim=True)], dim=1)


def test_the_mask_comes_first_and_hides_the_picture() -> None:
    pixels = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 32, 48)
    mask[..., :16] = 0.9
    made = inpainting_channels(pixels, mask, encode)
    assert made.shape == (2, 5, 4, 6)
    assert made[:, 0, :, :2].min() == 1 and made[:, 0, :, 2:].max() == 0
    assert torch.equal(made[:, 1:, :, 2:], encode(pixels)[..., 2:])
    assert torch.allclose(made[:, 1:4, :, :2], torch.full((2, 3, 4, 2), 0.5))


def test_less_weight_hides_less_and_none_hides_nothing() -> None:
    pixels, mask = torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    none, half, all_of_it = (
        inpainting_channels(pixels, mask, encode, weight=weight)[:, 1:] for weight in (0, 0.5, 1)
    )
    assert torch.equal(none, encode(pixels))
    assert torch.allclose(half, (none + all_of_it) / 2, atol=1e-6)
