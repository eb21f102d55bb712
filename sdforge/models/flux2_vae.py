"""Flux.2's VAE: latents of 32 channels, which the denoiser sees in patches of 2 × 2.

Patches are brought to unit variance with statistics that lie in the VAE's file. Both is done around
the VAE, so that it runs in tiles and layer by layer as any other.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.memory.vae_mode import VaeMode
from sdforge.models.bundle import LatentFormat
from sdforge.models.vae import Vae

_PATCH = 2
_EPSILON = 1e-4


class PatchedVae(Vae):
    """A VAE of which others see patches: four times the channels, half as long and wide."""

    def __init__(
        self, component: Component, memory: MemoryManager, own: LatentFormat, *, trace: str
    ) -> None:
        """Take the network, which has `bn.running_mean` and `bn.running_var`, and its own format.

        `trace` is that of `Vae`.
        """
        super().__init__(component, memory, own, trace=trace)
        self.latent_format = replace(
            own, channels=own.channels * _PATCH**2, downscale=own.downscale * _PATCH
        )
        mean, variance = (self._numbers(f"bn.running_{name}") for name in ("mean", "var"))
        self._mean, self._deviation = mean, torch.sqrt(variance + _EPSILON)

    @property
    def patch(self) -> int:
        """How many latents lie along each side of what others see as one."""
        return _PATCH

    def unpatched(self, latents: torch.Tensor) -> torch.Tensor:
        """Return (n, channels / 4, 2 × height, 2 × width), still of unit variance."""
        return F.pixel_shuffle(latents, _PATCH)

    def decode(
        self, latents: torch.Tensor, mode: VaeMode | None = None, *, tiling: bool = False
    ) -> torch.Tensor:
        """Return the pictures of patches (n, channels, height, width); see `Vae.decode`."""
        wide = latents.float()
        plain = wide * self._deviation.to(wide.device) + self._mean.to(wide.device)
        return super().decode(F.pixel_shuffle(plain, _PATCH), mode, tiling=tiling)

    def encode(
        self,
        pixels: torch.Tensor,
        mode: VaeMode | None = None,
        *,
        noise: torch.Tensor | None = None,
        tiling: bool = False,
    ) -> torch.Tensor:
        """Return the patches of pictures; see `Vae.encode`.

        Sides that are no multiples of a patch lose the rest.
        """
        whole = self.latent_format.downscale
        height, width = (side - side % whole for side in pixels.shape[-2:])
        own = None if noise is None else F.pixel_shuffle(noise, _PATCH)
        plain = super().encode(pixels[..., :height, :width], mode, noise=own, tiling=tiling)
        patches = F.pixel_unshuffle(plain, _PATCH)
        return (patches - self._mean.to(plain.device)) / self._deviation.to(plain.device)

    def _numbers(self, name: str) -> torch.Tensor:
        master = self.component.master(name)
        return self.component.read(master, master.stored).float().cpu().view(1, -1, 1, 1)
