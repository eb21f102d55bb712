"""How well an autoencoder keeps pictures: PSNR on the subjects and on things it never learned from.

White background flatters any whole-picture figure, so held-out pictures are measured three ways:
on white, on colours, and on white within the subject's outline only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from . import data
from .latents import to_signal
from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, STYLES, SUBJECTS

HELD_OUT_SHARE = 20
"""One label in this many is kept from the autoencoder's training, by its hash."""


def is_held_out(label: str) -> bool:
    """Whether pictures of this label are kept from training."""
    return hashlib.sha256(label.lower().encode()).digest()[0] % HELD_OUT_SHARE == 0


def held_out_pictures(work: Path, count: int = 64) -> np.ndarray:
    """Held-out labels that are no subjects of the demo either, [n, 128, 128, 4] uint8."""
    known = {subject.emoji.lower() for subject in SUBJECTS}
    rows = [
        row
        for label, row in data.emoji_labels(work / "npm").items()
        if row.get("group") in (3, 4, 5, 6, 7) and label not in known and is_held_out(label)
    ]
    made = []
    for style in STYLES:
        icons = data.IconSet(style, work / "npm")
        drawn = (icons.svg(row["hexcode"]) for row in rows)
        made += [data.render(svg) for svg in drawn if svg is not None]
    return np.stack(made[:: max(1, len(made) // count)][:count])


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """Pictures in 0..1 through the autoencoder and back."""
    device = next(vae.parameters()).device
    parts = []
    for start in range(0, len(pictures), 16):
        signal = to_signal(pictures[start : start + 16].astype(np.float32)).to(device)
        back = vae.decode(vae.encode(signal).latent_dist.mean).sample
        parts.append((back / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def psnr(first: np.ndarray, second: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR in dB of the mean squared error over all pictures, or over the masked pixels."""
    error = (first - second) ** 2
    return float(-10 * np.log10(error.mean() if mask is None else error[mask].mean()))


def held_out_psnr(vae: AutoencoderKL, rgba: np.ndarray) -> dict[str, float]:
    """PSNR on white, on the other background colours in turn, and within the outline on white."""
    colours = [name for name in BACKGROUNDS if name != DEFAULT_BACKGROUND]
    white = np.stack([data.composite(one, BACKGROUNDS[DEFAULT_BACKGROUND]) for one in rgba])
    coloured = np.stack(
        [data.composite(one, BACKGROUNDS[colours[i % 5]]) for i, one in enumerate(rgba)]
    )
    again = reconstruct(vae, white)
    return {
        "white": psnr(white, again),
        "coloured": psnr(coloured, reconstruct(vae, coloured)),
        "outline": psnr(white, again, rgba[..., 3] > 127),
    }
