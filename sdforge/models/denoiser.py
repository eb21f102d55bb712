"""The denoiser: a network plus the scalings that make it `(noisy latents, sigma) → clean guess`.

Networks of this kind were trained on 1000 timesteps and predict the noise (epsilon) or the velocity
(v). Samplers speak in sigmas, the standard deviation of noise over latents of variance 1; only this
file knows timesteps. Scalings: Karras et al. 2022, arXiv:2206.00364, section C.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.memory.calibration import START_DENOISER
from sdforge.memory.component import Component
from sdforge.memory.estimate import activation_bytes

_TRAINING_STEPS = 1000
_FIRST_BETA, _LAST_BETA = 0.00085, 0.012
_LAST_KEPT = 4.8973451890853435e-08
# What networks of these variants see beside the noisy latents.
SEES_MASK, SEES_PICTURE = "mask and picture", "picture"
# The same for transformers: Fill's mask keeps all its pixels, pictures to refer to lie behind the
# noise.
SEES_FINE_MASK, SEES_REFERENCE = "picture and fine mask", "reference"
SEES = {"inpainting": SEES_MASK, "instruct-pix2pix": SEES_PICTURE}


@dataclass(frozen=True, eq=False)
class Conditioning:
    """An encoded prompt: `hidden` (rows, tokens, width) and, for some families, `pooled`.

    `against` says of each row whether it is of a negative prompt; () for none. `numbers` are told
    the network beside the text, (rows, count), in fp32 whatever it computes in: sizes for SDXL, the
    distilled CFG scale for Flux. `beside` are further input channels (rows, channels, height/8,
    width/8) of networks that see more than noise, `references` latents of pictures to refer to,
    each of its own size. With `is_sequence` the text is a part of what attends, so that repeating
    it would change something.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None = None
    against: tuple[bool, ...] = ()
    numbers: torch.Tensor | None = None
    beside: torch.Tensor | None = None
    references: tuple[torch.Tensor, ...] = ()
    is_sequence: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of each row."""
        return self.hidden.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(t.nbytes for t in (self.hidden, self.pooled, self.numbers) if t is not None)

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        """Return the same on a device, in the type that the network computes in."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        numbers = None if self.numbers is None else self.numbers.to(device)
        return replace(self, hidden=self.hidden.to(device, dtype), pooled=pooled, numbers=numbers)

    def tiled(self, times: int) -> Conditioning:
        """Return each row with its tokens repeated as a whole, `times` times."""
        return self if times == 1 else replace(self, hidden=self.hidden.repeat(1, times, 1))

    def padded(self, empty: Conditioning, tokens: int) -> Conditioning:
        """Return each row with chunks of the empty prompt behind it, up to `tokens`."""
        chunks = (tokens - self.tokens) // empty.tokens
        if chunks <= 0 or self.is_sequence:
            return self
        return replace(self, hidden=torch.cat([self.hidden, *[empty.hidden] * chunks], dim=1))

    def fitted(self, tokens: int) -> Conditioning:
        """Return each row cut to `tokens`, or its last token repeated up to there."""
        missing = tokens - self.tokens
        if self.is_sequence:
            return self
        if missing <= 0:
            return replace(self, hidden=self.hidden[:, :tokens])
        last = self.hidden[:, -1:].expand(-1, missing, -1)
        return replace(self, hidden=torch.cat([self.hidden, last], dim=1))

    def rows(self, start: int, stop: int) -> Conditioning:
        """Return some of the rows, as views."""
        pooled, numbers, beside = (
            None if rows is None else rows[start:stop]
            for rows in (self.pooled, self.numbers, self.beside)
        )
        return replace(
            self,
            hidden=self.hidden[start:stop],
            pooled=pooled,
            against=self.against[start:stop],
            numbers=numbers,
            beside=beside,
            references=tuple(shown[start:stop] for shown in self.references),
        )

    @staticmethod
    def stack(parts: Sequence[Conditioning]) -> Conditioning:
        """Return the rows of all parts below each other; they must have equally many tokens."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        numbers = [part.numbers for part in parts if part.numbers is not None]
        return Conditioning(
            torch.cat([part.hidden for part in parts]),
            torch.cat(pooled) if pooled else None,
            numbers=torch.cat(numbers) if numbers else None,
            is_sequence=parts[0].is_sequence,
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


@cache
def zero_terminal_sigmas() -> tuple[float, ...]:
    """Return Stable Diffusion's sigmas rescaled so that the last timestep is (nearly) pure noise.

    Lin et al. 2023, arXiv:2305.08891, algorithm 1; the last sigma is what A1111 and Forge take
    instead of infinity.
    """
    plain = torch.tensor(scaled_linear_sigmas(), dtype=torch.float64)
    roots = (1 / (plain**2 + 1)).sqrt()
    roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    kept = roots**2
    kept[-1] = _LAST_KEPT
    return tuple(((1 - kept) / kept).sqrt().to(torch.float32).tolist())


class DenoiserModel:
    """The denoiser of a bundle; call `predict` with the module of a lease on `component`.

    `kind` is the sort of network, as traces of activations have it, `usual_tokens` the length of a
    prompt that estimates count on.
    """

    kind = "unet"
    usual_tokens = 77

    def __init__(
        self,
        component: Component,
        sigmas: tuple[float, ...],
        *,
        prediction: str,
        architecture: str = "sd1",
        sees: str = "",
    ) -> None:
        """Take the network.

        Args:
            component: the network.
            sigmas: of training, rising with timesteps.
            prediction: 'epsilon', 'v' or, in `FlowDenoiser`, 'flow'.
            architecture: the name of its trace in `memory/activations.json`.
            sees: what it is shown beside the noisy latents: "", `SEES_MASK` or `SEES_PICTURE`.
        """
        if prediction not in ("epsilon", "v", "flow"):
            raise UnsupportedCheckpoint(f"{component.name}: no rule for {prediction!r} prediction")
        first = next(component.module.parameters())
        self.component = component
        self.prediction = prediction
        self.sigmas = sigmas
        self.dtype = first.dtype
        self.architecture = architecture
        self.sees = sees
        self._width = first.shape[0]
        self._log_sigmas = [math.log(sigma) for sigma in sigmas]

    @property
    def is_flow(self) -> bool:
        """False: noise lies over the clean latents instead of taking their place."""
        return False

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
        shown = x * (1 / math.sqrt(variance))
        if conditioning.beside is not None:
            shown = torch.cat([shown, conditioning.beside.to(shown)], dim=1)
        (output,) = module(
            shown.to(self.dtype),
            timestep,
            encoder_hidden_states=conditioning.hidden.to(device=x.device, dtype=self.dtype),
            return_dict=False,
            **self._labels(conditioning, x.device),
        )
        output = output.to(x.dtype)
        if self.prediction == "v":
            return x / variance - output * (sigma / math.sqrt(variance))
        return x - output * sigma

    def _labels(self, conditioning: Conditioning, device: torch.device) -> dict[str, Any]:
        """Return what SDXL's networks take beside the text states; nothing for others."""
        if conditioning.pooled is None or conditioning.numbers is None:
            return {}
        labels = {
            "text_embeds": conditioning.pooled.to(device=device, dtype=self.dtype),
            "time_ids": conditioning.numbers.to(device),
        }
        return {"added_cond_kwargs": labels}

    def working_bytes(
        self,
        batch: int,
        height: int,
        width: int,
        tokens: int = 0,
        factor: float = START_DENOISER,
        *,
        referred: int = 0,
    ) -> int:
        """Estimate the activations of one `predict`: what was traced, with a careful factor.

        Args:
            batch: rows, cond and uncond counted apart.
            height: of the latents (pixels / 8).
            width: of the latents.
            tokens: of the prompt; 0 for as many as are usual.
            factor: from traced to real bytes, as `Calibration` learned it.
            referred: latent pixels of the pictures that each row refers to, all together.
        """
        traced = activation_bytes(
            self.architecture,
            kind=self.kind,
            width=self._width,
            latent_pixels=height * width + referred,
            rows=batch,
            tokens=tokens or self.usual_tokens,
            itemsize=self.dtype.itemsize,
        )
        return int(traced * factor)
