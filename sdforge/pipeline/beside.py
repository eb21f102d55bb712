"""What some checkpoints see beside the noisy latents: a mask and a picture, or a picture alone.

Inpainting networks have nine input channels (four of noise, one of the mask, four of the picture
without what is masked), InstructPix2Pix ones eight (four of the picture to be edited). Flux Fill is
shown the mask pixel by pixel; Kontext a picture, or none where there is none. What else a
pass has no picture for is shown as A1111 does it: all grey and all masked, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sdforge.models.bundle import ModelBundle
from sdforge.models.denoiser import (
    SEES_FINE_MASK,
    SEES_MASK,
    SEES_PICTURE,
    SEES_REFERENCE,
)
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.passes import Pass, Start

References = Callable[[ModelBundle], Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class Beside:
    """Further input channels for each picture of a batch, (batch, channels, height/8, width/8).

    `references` are latents of pictures to refer to, of any size, a row for each picture drawn.
    With an `image_scale` other than 1 guidance also leads away from what the network says when it
    sees no picture (Brooks et al. 2022, arXiv:2211.09800, equation 3).
    """

    channels: Tensor | None = None
    image_scale: float = 1.0
    references: tuple[Tensor, ...] = ()

    @property
    def guides(self) -> bool:
        """Whether the network is asked without the picture, too."""
        return self.image_scale != 1.0

    @property
    def referred(self) -> int:
        """Latent pixels of the pictures to refer to, all together."""
        return sum(picture.shape[-2] * picture.shape[-1] for picture in self.references)

    def references_of(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the pictures that rows refer to."""
        return tuple(shown[[row % len(shown) for row in rows]] for shown in self.references)

    def of_rows(self, rows: Sequence[int], *, blind_from: int) -> Tensor | None:
        """Return the channels of rows; rows from `blind_from` on see nothing."""
        if self.channels is None:
            return None
        found = self.channels[[row % len(self.channels) for row in rows]]
        if any(row >= blind_from for row in rows):
            sees = found.new_tensor([row < blind_from for row in rows])
            found = found * sees.view(-1, 1, 1, 1)
        return found


def beside_of(
    context: RunContext,
    bundle: ModelBundle,
    one: Pass,
    start: Start,
    batch: int,
    references: References | None = None,
) -> Beside | None:
    """Return what a checkpoint sees beside the latents in a pass, None where that is nothing.

    `references` are the latents of further pictures that it refers to, (1, …) each.
    """
    sees = bundle.denoiser.sees
    if not sees or (sees == SEES_REFERENCE and start.seen is None and references is None):
        return None
    count = context.request.batch_size
    with context.stage("input", batch):
        if sees == SEES_REFERENCE:
            own = start.seen is not None
            shown = [encoded(context, bundle, _seen(start, one)[0])] if own else []
            shown += references(bundle) if references is not None else ()
            return Beside(references=tuple(one.expand(count, -1, -1, -1) for one in shown))
        channels = _edited(bundle, one, start) if sees == SEES_PICTURE else None
        if sees in (SEES_MASK, SEES_FINE_MASK):
            weight = context.settings.inpainting_mask_weight
            pixels, mask = _seen(start, one)
            make = inpainting_channels if sees == SEES_MASK else fill_channels
            channels = make(
                pixels, mask, lambda rows: encoded(context, bundle, rows), weight=weight
            )
        elif channels is None:
            channels = _own(bundle, encoded(context, bundle, _seen(start, one)[0]))
        if len(channels) < count:
            channels = channels.expand(count, -1, -1, -1)
    scale = context.request.image_cfg_scale if sees == SEES_PICTURE else None
    return Beside(channels, 1.0 if scale is None or not _has_picture(start) else scale)


def beside_infotext(context: RunContext, bundle: ModelBundle) -> dict[str, str]:
    """Return the infotext keys of what a checkpoint sees, none for most of them."""
    scale = context.request.image_cfg_scale
    if bundle.denoiser.sees in (SEES_MASK, SEES_FINE_MASK):
        return {"Conditional mask weight": str(context.settings.inpainting_mask_weight)}
    if bundle.denoiser.sees == SEES_PICTURE and scale is not None:
        return {"Image CFG scale": str(scale)}
    return {}


def _has_picture(start: Start) -> bool:
    return start.seen is not None or start.latents is not None


def _edited(bundle: ModelBundle, one: Pass, start: Start) -> Tensor | None:
    """Return what an InstructPix2Pix network sees, unless a picture has to be encoded for it."""
    if start.seen is not None:
        return None
    if start.latents is not None:
        return _own(bundle, start.latents)
    latent = bundle.latent_format
    return torch.zeros(
        1, latent.channels, one.height // latent.downscale, one.width // latent.downscale
    )


def _own(bundle: ModelBundle, latents: Tensor) -> Tensor:
    """Return latents as the VAE has them itself: these networks learned with those."""
    return latents / bundle.latent_format.scale + bundle.latent_format.shift


def _seen(start: Start, one: Pass) -> tuple[Tensor, Tensor]:
    if start.seen is None:
        return torch.full((1, 3, one.height, one.width), 0.5), torch.ones(
            1, 1, one.height, one.width
        )
    pixels, mask = start.seen()
    return pixels, torch.ones_like(pixels[:, :1]) if mask is None else mask


def encoded(context: RunContext, bundle: ModelBundle, pixels: Tensor) -> Tensor:
    """Return latents of pictures, one after another: a batch of large ones might not fit."""
    with bundle.vae.stoppable(context.check_cancelled):
        rows = [bundle.vae.encode(row, tiling=context.tiling) for row in pixels.split(1)]
    return torch.cat(rows)


def inpainting_channels(
    pixels: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor], *, weight: float = 1.0
) -> Tensor:
    """Return the five further channels, (n, 5, height/8, width/8): mask, then latents.

    Args:
        pixels: pictures (n, 3, height, width) from 0 to 1; all grey where nothing is given.
        mask: (n or 1, 1, height, width), above a half where to repaint.
        encode: pixels → latents, a bundle's `vae.encode`.
        weight: how far the masked part is hidden from the network, 0 to 1 (A1111's
            `inpainting_mask_weight`); hidden is middle grey.
    """
    hard = (mask > 0.5).to(pixels).expand(len(pixels), -1, -1, -1)
    hidden = torch.lerp(pixels, torch.full_like(pixels, 0.5), hard * weight)
    latents = encode(hidden)
    small = F.interpolate(hard, size=latents.shape[-2:], mode="nearest").to(latents)
    return torch.cat([small, latents], dim=1)


def fill_channels(
    pixels: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor], *, weight: float = 1.0
) -> Tensor:
    """Return what Flux Fill sees, (n, 80, height/8, width/8): latents, the mask's 8 × 8 pixels.

    Takes what `inpainting_channels` takes.
    """
    hard = (mask > 0.5).to(pixels).expand(len(pixels), -1, -1, -1)
    latents = encode(torch.lerp(pixels, torch.full_like(pixels, 0.5), hard * weight))
    fine = F.pixel_unshuffle(hard, hard.shape[-1] // latents.shape[-1]).to(latents)
    return torch.cat([latents, fine], dim=1)
