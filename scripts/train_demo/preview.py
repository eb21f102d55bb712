"""Trains the small preview decoder: TAESD's layout, the demo's latents.

It has no normalisation and no attention, so it draws a picture in a fraction of the decoder's
time, while the sampler still runs. Names are those of TAESD's own decoder file: a row of layers,
numbered, of which the first one squeezes the latents and has no weights.

Its latents are scaled (unit variance), its pictures in 0..1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DecoderTiny
from torch import nn

from .export import save
from .models import SCALE, make_vae
from .polish import Pairs, Regression, Yardstick

CROP = 8
"""Side of training crops in latent pixels."""


def make_decoder() -> DecoderTiny:
    """TAESD's decoder, as diffusers builds it."""
    return DecoderTiny(
        in_channels=4,
        out_channels=3,
        num_blocks=(3, 3, 3, 1),
        block_out_channels=(64, 64, 64, 64),
        upsampling_scaling_factor=2,
        act_fn="relu",
        upsample_fn="nearest",
    )


def taesd_name(name: str) -> str:
    """Name in TAESD's file of a weight of diffusers' class, whose count leaves out the squeeze."""
    _layers, number, rest = name.split(".", 2)
    return f"{int(number) + 1}.{rest}"


def decode(network: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """Unscaled latents to pictures in -1..1."""
    pictures: torch.Tensor = network(latents * SCALE)
    return pictures


class CroppedPairs(Pairs):
    """Small pieces of the pairs: without attention, a piece is decoded as the whole would be."""

    def draw(self, count: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and pictures (-1..1) of one batch of pieces."""
        latents, truth = super().draw(count, rng)
        top, left = torch.randint(latents.shape[-1] - CROP + 1, (2,), generator=rng).tolist()
        piece = latents[..., top : top + CROP, left : left + CROP]
        shown = truth[..., 8 * top : 8 * (top + CROP), 8 * left : 8 * (left + CROP)]
        return piece, shown


def train(pairs: Pairs, work: Path, minutes: float, held_out: list[np.ndarray]) -> DecoderTiny:
    """Train for so many minutes of CPU in all; resumes from `preview.pt`."""
    vae = make_vae()
    vae.load_state_dict(torch.load(work / "vae.pt"))
    torch.manual_seed(1)
    network = make_decoder()
    cropped = CroppedPairs(pairs.latents, pairs.pictures, pairs.own)
    yardstick = Yardstick(vae.eval(), {"held_out": np.stack(held_out)}, decode)
    run = Regression(network, decode, work / "preview.pt", batch=8, noise=0.02)
    run.run(cropped, minutes, 1.0, "muon", yardstick)
    return network.eval()


def write(network: DecoderTiny, path: Path) -> None:
    """Write the decoder in half precision under TAESD's names."""
    weights = {taesd_name(name): value.half() for name, value in network.state_dict().items()}
    about = {
        "modelspec.title": "sdforge demo, preview decoder",
        "modelspec.architecture": "taesd-decoder",
        "modelspec.license": "Apache-2.0; credits in NOTICE.md",
    }
    save(weights, about, path)
