"""The VAE of Wan and Qwen-Image for single pictures: one frame in, one frame out.

It was made for videos and has latents of its own scale in each channel; both are dealt with here,
so that the rest of the program sees latents as of any other VAE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage


@dataclass(frozen=True)
class _Distribution:
    """Mean and standard deviation of latents, (n, channels, height/8, width/8)."""

    mean: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True)
class _Encoded:
    latent_dist: _Distribution


class StillVae(AutoencoderKLQwenImage):
    """Pixels (n, 3, height, width) from −1 to 1 to latents of unit variance, and back."""

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """Return the distribution of a picture's latents as `latent_dist`."""
        found = super().encode(x.unsqueeze(2)).latent_dist
        middle, spread = self._scales(x)
        return _Encoded(
            _Distribution((found.mean.squeeze(2) - middle) / spread, found.std.squeeze(2) / spread)
        )

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        """Return the picture of latents, as the only entry of a tuple."""
        middle, spread = self._scales(z)
        (frames,) = super().decode((z * spread + middle).unsqueeze(2), return_dict=False)
        return (frames.squeeze(2),)

    def _scales(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = (self.config["latents_mean"], self.config["latents_std"])
        middle, spread = (like.new_tensor(numbers).view(1, -1, 1, 1) for numbers in both)
        return middle, spread
