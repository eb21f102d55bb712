"""The denoiser: a network plus the scalings that make it `(noisy latents, sigma) → clean guess`.

Networks of this kind were trained on 1000 timesteps and predict the noise (epsilon) or the velocity
(v). Samplers speak in sigmas, the standard deviation of noise over latents of variance 1; only this
file knows timesteps. Scalings: Karras et al. 2022, arXiv:2206.00364, section C.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.memory.component import Component

_TRAINING_STEPS = 1000
_FIRST_BETA, _LAST_BETA = 0.00085, 0.012
# One forward of SD 1.5's U-Net in 16 bits peaks at 16.3 KB per latent pixel and row of the batch
# (traced; linear in pixels with fused attention). The factor covers workspaces of convolutions.
_BYTES_PER_LATENT_PIXEL = 16_300
_REFERENCE_WIDTH = 320
_WORKSPACE_FACTOR = 1.5


@dataclass(frozen=True, eq=False)
class Conditioning:
    """An encoded prompt: `hidden` (rows, tokens, width) and, for some families, `pooled`."""

    hidden: torch.Tensor
    pooled: torch.Tensor | None = None

    def repeat(self, rows: int) -> Conditioning:
        """Return `rows` copies of a single row, as views."""
        pooled = None if self.pooled is None else self.pooled.expand(rows, -1)
        return Conditioning(self.hidden.expand(rows, -1, -1), pooled)

    @staticmethod
    def stack(parts: Sequence[Conditioning]) -> Conditioning:
        """Return the rows of all parts below each other; they must have equally many tokens."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditioning(
            torch.cat([part.hidden for part in parts]), torch.cat(pooled) if pooled else None
        )


@cache
def scaled_linear_sigmas() -> tuple[float, ...]:
    """Return Stable Diffusion's 1000 sigmas, rising: sqrt((1 − ᾱ) / ᾱ) of its training betas.

    Betas are squares of an even ramp between square roots. Rounded to single precision where the
    original code does.
    """
    ramp = torch.linspace(_FIRST_BETA**0.5, _LAST_BETA**0.5, _TRAINING_STEPS, dtype=torch.float64)
    kept = torch.cumprod(1 - ramp**2, dim=0).to(torch.float32)
    return tuple(((1 - kept) / kept).sqrt().tolist())


class DenoiserModel:
    """The denoiser of a bundle; call `predict` with the module of a lease on `component`."""

    def __init__(self, component: Component, sigmas: tuple[float, ...], *, prediction: str) -> None:
        """Take the network; `prediction` is 'epsilon' or 'v', `sigmas` rise with timesteps."""
        if prediction not in ("epsilon", "v"):
            raise UnsupportedCheckpoint(f"{component.name}: no rule for {prediction!r} prediction")
        first = next(component.module.parameters())
        self.component = component
        self.prediction = prediction
        self.sigmas = sigmas
        self.dtype = first.dtype
        self._width = first.shape[0]
        self._log_sigmas = [math.log(sigma) for sigma in sigmas]

    @property
    def sigma_min(self) -> float:
        """Smallest sigma of training."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> float:
        """Largest sigma of training."""
        return self.sigmas[-1]

    def sigma_to_t(self, sigma: float) -> float:
        """Return the timestep of a sigma, with fractions, linear in log sigma; ends are clamped."""
        if sigma <= 0:
            return 0.0
        wanted = math.log(sigma)
        low = min(max(bisect_right(self._log_sigmas, wanted) - 1, 0), len(self.sigmas) - 2)
        below, above = self._log_sigmas[low], self._log_sigmas[low + 1]
        return low + min(max((wanted - below) / (above - below), 0.0), 1.0)

    def t_to_sigma(self, t: float) -> float:
        """Return the sigma of a timestep with fractions, the inverse of `sigma_to_t`."""
        t = min(max(t, 0.0), len(self.sigmas) - 1.0)
        low, high = math.floor(t), math.ceil(t)
        part = t - low
        return math.exp((1 - part) * self._log_sigmas[low] + part * self._log_sigmas[high])

    @torch.inference_mode()
    def predict(
        self, module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the guess of clean latents, in the type of `x`.

        Args:
            module: what a lease on `component` yields.
            x: noisy latents, (rows, channels, height/8, width/8), on the compute device.
            sigma: their noise, one for all rows.
            conditioning: as many rows as `x`.
        """
        # A tensor: a plain float would be computed with in double precision.
        timestep = torch.tensor([self.sigma_to_t(sigma)], dtype=torch.float32, device=x.device)
        variance = sigma * sigma + 1
        (output,) = module(
            (x * (1 / math.sqrt(variance))).to(self.dtype),
            timestep,
            encoder_hidden_states=conditioning.hidden.to(device=x.device, dtype=self.dtype),
            return_dict=False,
        )
        output = output.to(x.dtype)
        if self.prediction == "v":
            return x / variance - output * (sigma / math.sqrt(variance))
        return x - output * sigma

    def working_bytes(self, batch: int, height: int, width: int) -> int:
        """Estimate the activations of one `predict`.

        Args:
            batch: rows, cond and uncond counted apart.
            height: of the latents (pixels / 8).
            width: of the latents.
        """
        per_pixel = _BYTES_PER_LATENT_PIXEL * _WORKSPACE_FACTOR * self._width / _REFERENCE_WIDTH
        return int(batch * height * width * per_pixel * self.dtype.itemsize / 2)
