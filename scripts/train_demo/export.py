"""Puts the three trained networks into one file in the Stable Diffusion 1.5 layout."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from .data import SIZE
from .ldm_keys import Weights, text_to_ldm, unet_to_ldm, vae_to_ldm
from .models import UNET_GROUPS, VAE_GROUPS
from .subjects import SUBJECTS

RECOMMENDED = {"cfg_scale": "3", "steps": "20", "sampler": "Euler a"}
LICENCE = (
    "Weights: Apache-2.0 as part of sdforge. Trained on Noto Emoji (Apache-2.0), Twemoji "
    "(CC-BY-4.0) and others; credits in NOTICE.md"
)
SIZE_LIMIT = 60_000_000
RELATIVE_LIMIT = 10_000_000


def metadata(samples: int, date: str | None = None) -> dict[str, str]:
    """What the file says about itself; group counts are not readable from the weights."""
    today = date or datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.title": "sdforge demo",
        "modelspec.description": f"Draws {len(SUBJECTS)} emoji-like subjects on plain colours",
        "modelspec.resolution": f"{SIZE}x{SIZE}",
        "modelspec.prediction_type": "epsilon",
        "modelspec.license": LICENCE,
        "modelspec.date": today,
        "sdforge.unet_norm_groups": str(UNET_GROUPS),
        "sdforge.vae_norm_groups": str(VAE_GROUPS),
        "sdforge.unet_samples": str(samples),
        **{f"sdforge.{key}": value for key, value in RECOMMENDED.items()},
    }


def gather(unet: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel) -> Weights:
    """All weights under their LDM names in half precision."""
    weights = {
        **unet_to_ldm(unet.state_dict()),
        **vae_to_ldm(vae.state_dict()),
        **text_to_ldm(text.state_dict()),
    }
    return {name: value.detach().cpu().to(torch.float16) for name, value in weights.items()}


def write(weights: Weights, about: dict[str, str], path: Path) -> str:
    """Write the base's file; returns its SHA-256."""
    save(weights, about, path, SIZE_LIMIT)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save(weights: Weights, about: dict[str, str], path: Path, limit: int = RELATIVE_LIMIT) -> None:
    """Write a file that everybody may read, in one atomic step.

    Raises ValueError, and leaves nothing behind, when a number is not finite or the file is larger
    than `limit` bytes.
    """
    broken = [name for name, value in weights.items() if not value.float().isfinite().all()]
    if broken:
        raise ValueError(f"not finite in half precision: {broken[:3]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    save_file(weights, partial, metadata=about)
    size = partial.stat().st_size
    if size > limit:
        partial.unlink()
        raise ValueError(f"{size} bytes are more than the {limit} allowed")
    partial.chmod(0o644)
    partial.replace(path)
