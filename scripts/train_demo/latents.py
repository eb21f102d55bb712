"""Turns the rendered pictures into latents on every background, once, and sets the VAE's scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL

from .data import Pictures
from .models import SCALE
from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, STYLES, SUBJECTS


@dataclass
class LatentSet:
    """Every picture on every background, ready for the denoiser (scaled to unit variance)."""

    latents: torch.Tensor
    """[n, 4, 16, 16] float32."""
    subjects: list[str]
    styles: list[str]
    backgrounds: list[str]
    weights: torch.Tensor
    """How often each one is shown, summing to 1 for each style."""


def to_signal(pictures: np.ndarray) -> torch.Tensor:
    """[n, h, w, 3] in 0..1 to the network's [n, 3, h, w] in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous() * 2 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, batch: int = 16) -> torch.Tensor:
    """Latent means of pictures, unscaled."""
    device = next(vae.parameters()).device
    parts = [
        vae.encode(to_signal(pictures[start : start + batch]).to(device)).latent_dist.mean.cpu()
        for start in range(0, len(pictures), batch)
    ]
    return torch.cat(parts)


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Shift and stretch the latent space so that SCALE times a latent has unit variance.

    The change goes into the 1x1 convolutions on both sides of the latent space, so it costs
    nothing at run time and pictures decode exactly as before.
    """
    gain = 1 / (deviation * SCALE)
    before, after = vae.quant_conv, vae.post_quant_conv
    assert before is not None and after is not None
    channels = len(mean)
    before.weight[:channels] *= gain[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) * gain
    before.bias[channels:] += 2 * gain.abs().log()
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight /= gain[None, :, None, None]


def share(subject_weight: float, subject: str, background: str) -> float:
    """How often a combination is shown: plain white most, invisible combinations never."""
    if subject in {f"{background} square", f"{background} circle"}:
        return 0.0
    return subject_weight * (2.5 if background == DEFAULT_BACKGROUND else 1.0)


def build(pictures: Pictures, vae: AutoencoderKL, refold: bool = True) -> LatentSet:
    """Encode everything; with `refold`, first set the VAE's scale on these very pictures."""
    weight = {subject.name: subject.weight for subject in SUBJECTS}
    keys = [
        (index, background)
        for index in range(len(pictures.subjects))
        for background in BACKGROUNDS
        if share(1.0, pictures.subjects[index], background) > 0
    ]
    raw = torch.cat(
        [
            encode(vae, np.stack([pictures.composite(*key) for key in keys[start : start + 16]]))
            for start in range(0, len(keys), 16)
        ]
    )
    weights = torch.tensor(
        [share(weight[pictures.subjects[i]], pictures.subjects[i], b) for i, b in keys]
    )
    if refold:
        first = torch.tensor([pictures.styles[i] == STYLES[0].name for i, _ in keys])
        share_of = (weights * first / (weights * first).sum())[:, None, None, None]
        mean = (raw * share_of).sum((0, 2, 3)) / raw[0, 0].numel()
        square = ((raw - mean[:, None, None]) ** 2 * share_of).sum((0, 2, 3)) / raw[0, 0].numel()
        fold_statistics(vae, mean, square.sqrt())
        raw = (raw - mean[:, None, None]) / (square.sqrt() * SCALE)[:, None, None]
    styles = [pictures.styles[i] for i, _ in keys]
    for style in STYLES:
        mask = torch.tensor([name == style.name for name in styles])
        weights[mask] /= weights[mask].sum()
    return LatentSet(
        latents=raw * SCALE,
        subjects=[pictures.subjects[i] for i, _ in keys],
        styles=styles,
        backgrounds=[background for _, background in keys],
        weights=weights,
    )
