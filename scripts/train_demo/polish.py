"""Trains the decoder alone, further and further, while the latents stay what they are.

The denoiser's latents come from the encoder, so that is frozen: every picture is encoded once and
kept. What is left is a plain regression from latents to pictures, whole ones, as the decoder will
meet them. Held-out labels (vae_score.is_held_out) are in no set, and what it reaches on them is
written down every few minutes. `distil.py` uses the same pairs for the small preview decoder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from . import data
from .latents import encode, to_signal
from .models import make_vae
from .optim import make_optimisers, set_rate
from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, ONE_SIDED
from .vae import training_pictures

OWN_PART = 0.4
"""Share of the demo's own subjects in every batch."""


@dataclass
class Pairs:
    """Pictures with their latents, the demo's own subjects first."""

    latents: torch.Tensor
    """[n, 4, 16, 16] half precision, unscaled."""
    pictures: torch.Tensor
    """[n, 3, 128, 128] uint8."""
    own: int
    """How many of the first ones show the demo's subjects."""

    def draw(self, count: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and pictures (-1..1) of one batch."""
        first = round(count * OWN_PART)
        rows = torch.cat(
            [
                torch.randint(self.own, (first,), generator=rng),
                torch.randint(self.own, len(self.latents), (count - first,), generator=rng),
            ]
        )
        return self.latents[rows].float(), self.pictures[rows].float() / 127.5 - 1


def make_pairs(vae: AutoencoderKL, work: Path, seed: int = 6) -> Pairs:
    """Encode the demo's subjects (usual and varied) and all other pictures, once."""
    path = work / "pairs.pt"
    if path.exists():
        return Pairs(**torch.load(path))
    rng = np.random.default_rng(seed)
    own, colours = data.build(work), list(BACKGROUNDS)
    made: list[np.ndarray] = []
    for index, subject in enumerate(own.subjects):
        made.append(own.composite(index, DEFAULT_BACKGROUND))
        made += [own.composite(index, colours[i]) for i in rng.integers(1, len(colours), 2)]
        for _ in range(3):
            scale, left, top = rng.uniform(0.72, 1.0), rng.random(), rng.random()
            flip = rng.random() < 0.5 and subject not in ONE_SIDED
            moved = data.vary(own.rgba[index], scale, left, top, flip)
            made.append(data.composite(moved, BACKGROUNDS[colours[rng.integers(len(colours))]]))
    count = len(made)
    for rgba in training_pictures(work):
        colour = (255, 255, 255)
        if rng.random() < 0.5:
            colour = BACKGROUNDS[colours[rng.integers(len(colours))]]
        if rng.random() < 0.15:
            colour = tuple(rng.integers(0, 256, 3).tolist())
        made.append(data.composite(rgba, colour))
    pictures = np.stack([(picture * 255).round().astype(np.uint8) for picture in made])
    latents = encode(vae, pictures / np.float32(255))
    pairs = Pairs(latents.half(), torch.from_numpy(pictures).permute(0, 3, 1, 2), count)
    torch.save(pairs.__dict__, path)
    return pairs


def closeness(guess: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Absolute error of pixels and of their gradients, and mostly squared error."""
    across = (guess.diff(dim=-1) - truth.diff(dim=-1)).abs().mean()
    down = (guess.diff(dim=-2) - truth.diff(dim=-2)).abs().mean()
    return 0.5 * F.l1_loss(guess, truth) + 0.2 * (across + down) + 2 * F.mse_loss(guess, truth)


@dataclass
class Regression:
    """A decoder that learns from pairs for some time, with a running average; resumes.

    Time is this process's own CPU time, so that a busy machine changes only how long it takes.
    """

    network: nn.Module
    decode: Callable[[nn.Module, torch.Tensor], torch.Tensor]
    """How the network turns unscaled latents into pictures in -1..1."""
    path: Path
    batch: int = 3
    noise: float = 0.02
    """Noise on the latents, as a part of their deviation: a denoiser's latents are never exact."""

    def run(
        self,
        pairs: Pairs,
        minutes: float,
        strength: float,
        kind: str,
        measure: Callable[[nn.Module], dict[str, float]],
    ) -> nn.Module:
        """Train for so many minutes in all, over any number of calls; returns the average."""
        optimisers = make_optimisers(self.network, kind, 0.01 * strength, 1e-3 * strength)
        average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        spent, step = 0.0, 0
        if self.path.exists():
            stored = torch.load(self.path)
            self.network.load_state_dict(stored["network"])
            average, spent, step = stored["average"], stored["seconds"], stored["steps"]
            for optimiser, state in zip(optimisers, stored["optimisers"], strict=True):
                optimiser.load_state_dict(state)
        rng = torch.Generator().manual_seed(step)
        deviation = pairs.latents.float().std()
        begun = told = time.process_time()
        before = spent
        while spent < minutes * 60:
            latents, truth = pairs.draw(self.batch, rng)
            latents = latents + self.noise * deviation * torch.randn(latents.shape, generator=rng)
            loss = closeness(self.decode(self.network, latents), truth)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
            left = 1 - spent / (minutes * 60)
            set_rate(optimisers, min((step + 1) / 20, 2 * left, 1.0))
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            step += 1
            now = self.network.state_dict()
            keep = min(0.997, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.values()), [now[k] for k in average], 1 - keep)
            spent = before + time.process_time() - begun
            if time.process_time() - told > 120 or spent >= minutes * 60:
                self._save(average, optimisers, spent, step)
                reached = self._measured(average, measure)
                print(json.dumps({"step": step, "minutes": round(spent / 60, 1), **reached}))
                told = time.process_time()
        self.network.load_state_dict(average)
        return self.network

    def _measured(
        self, average: dict[str, torch.Tensor], measure: Callable[[nn.Module], dict[str, float]]
    ) -> dict[str, float]:
        """What the average reaches now; training goes on from the present weights."""
        present = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(average)
        reached = measure(self.network)
        self.network.load_state_dict(present)
        return {name: round(value, 2) for name, value in reached.items()}

    def _save(
        self,
        average: dict[str, torch.Tensor],
        optimisers: list[torch.optim.Optimizer],
        spent: float,
        step: int,
    ) -> None:
        partial = self.path.with_suffix(".part")
        torch.save(
            {
                "network": self.network.state_dict(),
                "average": average,
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "seconds": spent,
                "steps": step,
            },
            partial,
        )
        partial.replace(self.path)


class Yardstick:
    """PSNR of a decoder on pictures it never learned from, and on the demo's subjects."""

    def __init__(
        self,
        vae: AutoencoderKL,
        pictures: dict[str, np.ndarray],
        decode: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    ) -> None:
        self._decode = decode
        self._sets = {
            name: (encode(vae, rgb.astype(np.float32)), to_signal(rgb.astype(np.float32)))
            for name, rgb in pictures.items()
        }

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Name of each set to its PSNR in dB."""
        reached = {}
        for name, (latents, truth) in self._sets.items():
            parts = [self._decode(network, part).clamp(-1, 1) for part in latents.split(16)]
            error = (torch.cat(parts) - truth).div(2).pow(2).mean()
            reached[name] = float(-10 * error.log10())
        return reached


class DecoderHalf(nn.Module):
    """The part of the autoencoder behind the latents."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        assert vae.post_quant_conv is not None
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures in -1..1."""
        pictures: torch.Tensor = self.decoder(self.post_quant_conv(latents))
        return pictures


def polish(
    vae: AutoencoderKL,
    work: Path,
    minutes: float,
    held_out: list[np.ndarray],
    strength: float = 0.3,
) -> AutoencoderKL:
    """Train `vae`'s decoder in place for so many minutes in all; resumes from `polish.pt`.

    `held_out` are pictures to measure on, [128, 128, 3] in 0..1.
    """
    own = data.build(work)
    shown = [own.composite(i, list(BACKGROUNDS)[i % 6]) for i in range(0, len(own.rgba), 4)]
    frozen = make_vae()
    frozen.load_state_dict(vae.state_dict())
    half = DecoderHalf(vae)

    def decode(network: nn.Module, latents: torch.Tensor) -> torch.Tensor:
        pictures: torch.Tensor = network(latents)
        return pictures

    yardstick = Yardstick(
        frozen, {"subjects": np.stack(shown), "held_out": np.stack(held_out)}, decode
    )
    print(json.dumps({"before": yardstick(half)}))
    pairs = make_pairs(frozen, work)
    run = Regression(half, decode, work / "polish.pt")
    run.run(pairs, minutes, strength, "muon", yardstick)
    return vae.eval()
