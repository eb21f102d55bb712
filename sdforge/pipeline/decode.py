"""Latents → pixels, under a lease of the VAE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from sdforge.core.events import Notice
from sdforge.models.bundle import ModelBundle
from sdforge.models.vae_tiles import OnTile, nothing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sdforge.models.preview_decoder import PreviewDecoders
    from sdforge.pipeline.context import RunContext


def decode_batch(
    context: RunContext, bundle: ModelBundle, latents: torch.Tensor, *, stops: bool = True
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the pictures of a job's latents, by the decoder that `sd_vae_decode_method` names.

    Raises:
        Cancelled: the job was, between two tiles or pictures; not without `stops`, which is for
            what a job had reached when it was cancelled.
    """
    small = context.decoders if context.settings.sd_vae_decode_method == "TAESD" else None
    if small is not None and not small.fits(bundle.vae):
        name = bundle.vae.component.name
        context.emit(Notice(text=f"no small decoder goes with {name}: its VAE was used"))
        small = None
    check = context.check_cancelled if stops else nothing
    return decode_latents(bundle, latents, tiling=context.tiling, small=small, check=check)


def decode_latents(
    bundle: ModelBundle,
    latents: torch.Tensor,
    *,
    tiling: bool = False,
    small: PreviewDecoders | None = None,
    check: OnTile = nothing,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield one uint8 array (height, width, 3) per row of `latents`; edges fit with `tiling`.

    Rows are decoded one by one: the VAE's activations, not its weights, are the peak of a job. With
    `small`, a decoder of TAESD's kind takes the VAE's place where one goes with it; such have no
    edges that fit. `check` is called after each tile and between rows; it may raise to stop.
    """
    for number, row in enumerate(latents.split(1)):
        if number:
            check()
        decoded = small.decode(bundle.vae, row) if small is not None and not tiling else None
        if decoded is None:
            with bundle.vae.stoppable(check):
                decoded = bundle.vae.decode(row, tiling=tiling)
        yield to_pixels(decoded[0])


@torch.inference_mode()
def to_pixels(picture: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return (3, height, width) from 0 to 1 as uint8 (height, width, 3).

    Values are truncated to 8 bits, not rounded, as A1111 does.
    """
    levels = picture.mul(255).to(torch.uint8).permute(1, 2, 0).contiguous()
    pixels: npt.NDArray[np.uint8] = levels.cpu().numpy()
    return pixels
