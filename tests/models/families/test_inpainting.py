"""Inpainting checkpoints of the later families are shown the mask too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scripts.tiny_models import catalogue
from scripts.tiny_models.catalogue import UNET
from scripts.tiny_models.files import random_tensors, write_safetensors
from tests.models.families.conftest import Draw

FIRST = f"{UNET}input_blocks.0.0.weight"


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_an_inpainting_checkpoint_draws(tmp_path: Path, draw: Draw, family: str) -> None:
    shapes = getattr(catalogue, family)()
    width, _, *kernel = shapes[FIRST]
    shapes = {**shapes, FIRST: (width, 9, *kernel)}
    file = write_safetensors(tmp_path / "nine.safetensors", random_tensors(shapes, 3), "F32")
    drawn = draw(file, steps=1)
    assert drawn.bundle.family == family
    assert drawn.bundle.denoiser.sees == "mask and picture"
    assert torch.isfinite(drawn.latents).all()
