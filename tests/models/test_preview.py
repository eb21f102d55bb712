import numpy as np
import pytest
import torch

from sdforge.models.bundle import LatentFormat, ModelBundle
from sdforge.models.preview import SD1_PREVIEW, fit_preview, preview_pixels

IDENTITY = LatentFormat(
    channels=3,
    downscale=8,
    scale=1.0,
    preview_matrix=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    preview_bias=(0.0, 0.5, 0.0),
)


def test_a_preview_is_the_linear_map_in_8_bits() -> None:
    latents = torch.zeros(3, 2, 5)
    latents[0, 0, 1] = 1.0
    latents[1, 1, 0] = 0.25
    latents[2, 1, 4] = float("nan")
    pixels = preview_pixels(latents, IDENTITY)
    assert pixels.shape == (2, 5, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, 1].tolist() == [255, 128, 0]
    assert pixels[1, 0].tolist() == [0, 191, 0]
    assert pixels[1, 4, 2] == 128


def test_the_first_of_a_batch_is_shown() -> None:
    batch = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    assert (preview_pixels(batch, IDENTITY) == preview_pixels(batch[0], IDENTITY)).all()


def test_a_vae_of_another_width_gets_a_map_of_its_own(bundle: ModelBundle) -> None:
    fmt = bundle.latent_format
    assert len(fmt.preview_matrix) == fmt.channels == 4
    assert fmt.preview_matrix != SD1_PREVIEW[0]


class _LinearVae:
    """A VAE whose latents are a known mixture of colours, so the way back is known too."""

    def __init__(self, downscale: int) -> None:
        self.latent_format = LatentFormat(channels=4, downscale=downscale, scale=1.0)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(pixels, self.latent_format.downscale)
        return torch.cat([small * 3 - 1, small.sum(1, keepdim=True)], dim=1)


@pytest.mark.parametrize("downscale", [4, 8, 16])
def test_the_fitted_map_turns_latents_back_into_their_colours(downscale: int) -> None:
    vae = _LinearVae(downscale)
    matrix, bias = fit_preview(vae)  # type: ignore[arg-type]
    fmt = vae.latent_format.with_preview(matrix, bias)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    wanted = torch.nn.functional.avg_pool2d(pixels, downscale)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(preview_pixels(vae.encode(pixels), fmt) - wanted).max() <= 1
