"""The VAE: latents to pixels and back, one picture at a time, under its own lease.

One at a time bounds the memory and makes a picture independent of its batch. Tiling for large
pictures is not here yet.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from sdforge.core.errors import SdforgeError
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.bundle import LatentFormat

log = logging.getLogger(__name__)

# Peak of one decode or encode per pixel and byte of a number, traced for SD's VAE (width 128), and
# the factor from traced to real peaks on accelerators that peers' constants imply.
_DECODE_BYTES_PER_PIXEL = 768
_ENCODE_BYTES_PER_PIXEL = 640
_WORKSPACE_FACTOR = 2.8
_REFERENCE_WIDTH = 128


class Vae:
    """The VAE of a bundle; pixels are floats from 0 to 1, shape (n, 3, height, width)."""

    def __init__(
        self, component: Component, memory: MemoryManager, latent_format: LatentFormat
    ) -> None:
        """Take the network and the manager that places it."""
        first = next(component.module.parameters())
        self.component = component
        self.dtype = first.dtype
        self.width = first.shape[0]
        self._memory = memory
        self.latent_format = latent_format
        self._needs_fp32 = False

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pictures of latents, on the host in fp32.

        A picture that comes out as not-a-number in half precision is decoded again in fp32, and
        from then on all are.

        Raises:
            SdforgeError: a picture is not-a-number in fp32 too; its latents are to blame.
        """
        _, _, height, width = latents.shape
        scale = self.latent_format.downscale
        needed = self.decode_bytes(height * scale, width * scale)
        with self._memory.lease(self.component, working_bytes=needed) as module:
            pictures = [self._decode_one(module, one).cpu() for one in latents.split(1)]
        return torch.cat(pictures)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the latents of pictures: the mean of the VAE's distribution, in fp32.

        Height and width must be multiples of the downscale.
        """
        _, _, height, width = pixels.shape
        device = self._memory.compute_device
        with self._memory.lease(
            self.component, working_bytes=self.encode_bytes(height, width)
        ) as module:
            means = [
                _encode(module, one.to(device, self.dtype) * 2 - 1).float()
                for one in pixels.split(1)
            ]
        return (torch.cat(means) - self.latent_format.shift) * self.latent_format.scale

    def decode_bytes(self, height: int, width: int) -> int:
        """Estimate the activations of decoding one picture of this size in pixels."""
        return self._working_bytes(height * width * _DECODE_BYTES_PER_PIXEL)

    def encode_bytes(self, height: int, width: int) -> int:
        """Estimate the activations of encoding one picture of this size in pixels."""
        return self._working_bytes(height * width * _ENCODE_BYTES_PER_PIXEL)

    def _working_bytes(self, traced: int) -> int:
        itemsize = 4 if self._needs_fp32 else self.dtype.itemsize
        return int(traced * itemsize * _WORKSPACE_FACTOR * self.width / _REFERENCE_WIDTH)

    def _decode_one(self, module: nn.Module, latents: torch.Tensor) -> torch.Tensor:
        plain = (
            latents.to(self._memory.compute_device, torch.float32) / self.latent_format.scale
            + self.latent_format.shift
        )
        picture = self._run_decoder(module, plain)
        if picture.isnan().any() and not self._needs_fp32 and self.dtype != torch.float32:
            log.warning("the VAE gave not-a-number in %s; decoding in float32", self.dtype)
            self._needs_fp32 = True
            picture = self._run_decoder(module, plain)
        if picture.isnan().any():
            raise SdforgeError(
                "the picture came out as not-a-number: the denoiser overflowed; if it does so with "
                "other settings too, start with --no-half, or the checkpoint is broken"
            )
        return (picture / 2 + 0.5).clamp(0, 1)

    def _run_decoder(self, module: nn.Module, plain: torch.Tensor) -> torch.Tensor:
        if not self._needs_fp32:
            return _decode(module, plain.to(self.dtype)).float()
        weights = {name: tensor.float() for name, tensor in module.state_dict().items()}
        return _decode_with(module, weights, plain)


def _encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    return vae.encode(pixels).latent_dist.mode()


def _decode(vae: Any, plain: torch.Tensor) -> torch.Tensor:
    return vae.decode(plain, return_dict=False)[0]


def _decode_with(
    module: nn.Module, weights: Mapping[str, torch.Tensor], plain: torch.Tensor
) -> torch.Tensor:
    """Decode with other weights than the module's, which stay as they are."""
    named = {f"vae.{name}": tensor for name, tensor in weights.items()}
    picture: torch.Tensor = functional_call(_Decoder(module), named, (plain,))
    return picture


class _Decoder(nn.Module):
    """`functional_call` runs `forward`; a VAE's own would encode as well."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, plain: torch.Tensor) -> torch.Tensor:
        return _decode(self.vae, plain)
