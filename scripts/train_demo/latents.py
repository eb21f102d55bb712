"""Turns the rendered pictures into latents on every background, once, and sets the VAE's scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL

from .data import Pictures, composite, vary
from .models import SCALE
from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, ONE_SIDED, STYLES, SUBJECTS


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


@dataclass(frozen=True)
class Variant:
    """A picture of the data set, moved about, on one background."""

    index: int
    background: str
    picture: np.ndarray
    """[128, 128, 3] in 0..1."""


def varied(pictures: Pictures, rounds: int, seed: int) -> Iterator[Variant]:
    """Every picture on every background, `rounds` times: smaller, elsewhere, mirrored."""
    rng = np.random.default_rng(seed)
    for index, subject in enumerate(pictures.subjects):
        for background in list(BACKGROUNDS) * rounds:
            if share(1.0, subject, background) == 0:
                continue
            scale, left, top = rng.uniform(0.72, 1.0), rng.random(), rng.random()
            flip = rng.random() < 0.5 and subject not in ONE_SIDED
            moved = vary(pictures.rgba[index], scale, left, top, flip)
            yield Variant(index, background, composite(moved, BACKGROUNDS[background]))


def variants(
    pictures: Pictures, vae: AutoencoderKL, rounds: int = 2, part: float = 0.4, seed: int = 9
) -> LatentSet:
    """Moved pictures beside the usual ones, so that seeds have something to choose.

    `part` is the share of training that they get beside the pictures of `build`, whose scale
    `vae` must already have.
    """
    made = list(varied(pictures, rounds, seed))
    subjects = [pictures.subjects[variant.index] for variant in made]
    styles = [pictures.styles[variant.index] for variant in made]
    weight = {subject.name: subject.weight for subject in SUBJECTS}
    latents = [
        encode(vae, np.stack([variant.picture for variant in made[start : start + 16]]))
        for start in range(0, len(made), 16)
    ]
    weights = torch.tensor(
        [share(weight[s], s, v.background) for s, v in zip(subjects, made, strict=True)]
    )
    for style in STYLES:
        mask = torch.tensor([name == style.name for name in styles])
        weights[mask] *= part / (1 - part) / weights[mask].sum()
    return LatentSet(
        latents=torch.cat(latents) * SCALE,
        subjects=subjects,
        styles=styles,
        backgrounds=[variant.background for variant in made],
        weights=weights,
    )


def joined(first: LatentSet, second: LatentSet) -> LatentSet:
    """Both sets as one; the weights keep their relation."""
    return LatentSet(
        latents=torch.cat([first.latents, second.latents]),
        subjects=first.subjects + second.subjects,
        styles=first.styles + second.styles,
        backgrounds=first.backgrounds + second.backgrounds,
        weights=torch.cat([first.weights, second.weights]),
    )
