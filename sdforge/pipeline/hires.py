"""Hires fix: what the second pass starts with, enlarged from the first's result or from a picture.

Latents are enlarged by interpolation, or decoded, enlarged as pictures and encoded again; which of
both the name of the upscaler says.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sdforge.core.events import Notice
from sdforge.models.bundle import ModelBundle
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.decode import decode_batch
from sdforge.pipeline.denoise import DenoisedBatch
from sdforge.pipeline.img2img import encode_picture, open_input
from sdforge.pipeline.passes import Pass, Start
from sdforge.pipeline.refiner import has_same_latents
from sdforge.pipeline.upscaling import picture_upscaler
from sdforge.postprocess.decoding import flattened
from sdforge.postprocess.upscalers import LATENT_MODES, PLAIN, enlarged


class HiresStart:
    """The first pass's result, enlarged for the second.

    Made while the checkpoint of the first pass is still loaded, which decodes where pictures and
    not latents are enlarged.
    """

    def __init__(self, context: RunContext, one: Pass, first: DenoisedBatch, batch: int) -> None:
        """Decode and enlarge, unless the latents themselves are enlarged."""
        self._context = context
        self._pass = one
        self._first = first
        self._upscaler = context.request.hires_upscaler
        self._pictures: list[Image.Image] = []
        # Another checkpoint may not know these latents, which shows when it is loaded.
        if self._upscaler not in LATENT_MODES or one.checkpoint != context.request.checkpoint:
            with context.stage("upscale", batch):
                decoded = decode_batch(context, first.bundle, first.latents)
                self._pictures = [
                    _enlarged_picture(context, Image.fromarray(pixels)) for pixels in decoded
                ]

    def of(self, bundle: ModelBundle, batch: int) -> Start:
        """Return the start for the checkpoint of the second pass."""
        context, latents = self._context, self._first.latents
        is_latent = self._upscaler in LATENT_MODES
        if is_latent and not has_same_latents(bundle, self._first.bundle):
            text = f"{bundle.info.title} has latents of another kind: the picture is enlarged"
            context.emit(Notice(text=text))
            is_latent = False
        with context.stage("upscale", batch):
            if is_latent:
                latents = _enlarged_latents(context, bundle, latents)
            else:
                latents = _encoded(context, bundle, self._pictures, batch)
            return Start(latents=_cropped(latents, self._pass, bundle))


class GivenStart:
    """A picture of the client, enlarged for the second pass; there is no first."""

    def __init__(self, context: RunContext, one: Pass) -> None:
        """Take note; the picture is read when the start is made."""
        self._context = context
        self._pass = one

    def of(self, bundle: ModelBundle, batch: int) -> Start:
        """Return the start for the checkpoint of the pass, one row for each of the batch."""
        context, request = self._context, self._context.request
        if request.first_picture is None or request.width is None or request.height is None:
            raise ValueError("there is no picture to enlarge, or the request was not resolved")
        with context.stage("upscale", batch):
            picture = open_input(context, request.first_picture, "firstpass_image")
            picture = flattened(picture, context.settings.img2img_background_color)
            if request.hires_upscaler in LATENT_MODES:
                # Brought to the size that a first pass would have drawn.
                picture = enlarged(picture, request.width, request.height)
                size = _latent_size(bundle, (request.width, request.height))
                drawn = encode_picture(context, bundle, picture, size, batch * request.batch_size)
                latents = _enlarged_latents(context, bundle, drawn)
            else:
                latents = _encoded(context, bundle, [_enlarged_picture(context, picture)], batch)
            latents = latents.expand(request.batch_size, -1, -1, -1)
            return Start(latents=_cropped(latents, self._pass, bundle))


def _enlarged_picture(context: RunContext, picture: Image.Image) -> Image.Image:
    request = context.request
    name = request.hires_upscaler
    upscaler = PLAIN if name in LATENT_MODES else picture_upscaler(context, name)
    return enlarged(picture, *request.hires_size, upscaler)


def _enlarged_latents(context: RunContext, bundle: ModelBundle, latents: Tensor) -> Tensor:
    row = LATENT_MODES.get(context.request.hires_upscaler)
    size = _latent_size(bundle, context.request.hires_size)
    return F.interpolate(latents, size=size, mode=row.mode, antialias=row.antialias)


def _encoded(
    context: RunContext, bundle: ModelBundle, pictures: list[Image.Image], batch: int
) -> Tensor:
    size = _latent_size(bundle, context.request.hires_size)
    first = batch * context.request.batch_size
    return torch.cat(
        [
            encode_picture(context, bundle, picture, size, first + row)
            for row, picture in enumerate(pictures)
        ]
    )


def _latent_size(bundle: ModelBundle, size: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) in latents of (width, height) in pixels."""
    downscale = bundle.latent_format.downscale
    return size[1] // downscale, size[0] // downscale


def _cropped(latents: Tensor, one: Pass, bundle: ModelBundle) -> Tensor:
    """Cut out the middle where both sides were asked for in other proportions."""
    height, width = _latent_size(bundle, (one.width, one.height))
    top, left = (latents.shape[-2] - height) // 2, (latents.shape[-1] - width) // 2
    return latents[..., top : top + height, left : left + width].contiguous()
