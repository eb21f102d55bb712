from __future__ import annotations

import pytest
import torch

from sdforge.sampling.guidance import guided

COND, UNCOND = torch.tensor([1.0, 3.0]), torch.tensor([2.0, -1.0])


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 7.0, 30.0])
def test_guidance_goes_from_uncond_to_cond_and_beyond(scale: float) -> None:
    denoiser = guided(lambda x, sigma: (COND, UNCOND), scale)
    result = denoiser(torch.zeros(2), 1.0)
    assert torch.allclose(result, UNCOND + (COND - UNCOND) * scale, rtol=1e-5)


def test_latents_and_sigma_are_passed_on() -> None:
    denoiser = guided(lambda x, sigma: (x * sigma, x), 1.0)
    assert torch.equal(denoiser(COND, 3.0), COND * 3.0)
