"""Latents → pixels, under a lease of the VAE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from sdforge.models.bundle import ModelBundle

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def decode_latents(
    bundle: ModelBundle, latents: torch.Tensor, *, tiling: bool = False
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield one uint8 array (height, width, 3) per row of `latents`; edges fit with `tiling`.

    Rows are decoded one by one: the VAE's activations, not its weights, are the peak of a job.
    Values are truncated to 8 bits, not rounded, as A1111 does.
    """
    for row in range(len(latents)):
        with torch.inference_mode():
            decoded = bundle.vae.decode(latents[row : row + 1], tiling=tiling)
            scaled = decoded[0].mul(255).to(torch.uint8)
            pixels = scaled.permute(1, 2, 0).contiguous().cpu()
        yield pixels.numpy()
