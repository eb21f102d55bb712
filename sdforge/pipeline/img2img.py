"""Pictures as the start of a pass: files → pixels → latents, and what comes out back onto them.

What a mask does to pixels is `inpaint.py`'s; the sampling itself knows nothing of pictures.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sdforge.core.events import Notice
from sdforge.core.inputs import InputImage
from sdforge.models.bundle import LatentFormat, ModelBundle
from sdforge.models.text_encoder import ShownPicture
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.inpaint import Prepared, prepare
from sdforge.pipeline.passes import Start
from sdforge.pipeline.upscaling import picture_upscaler
from sdforge.postprocess.decoding import decode_picture, flattened
from sdforge.postprocess.masks import latent_mask
from sdforge.sampling.noise import ImageNoise

Pixels = npt.NDArray[np.uint8]
_LATENT_NOISE, _LATENT_NOTHING = 2, 3
# Keeps the noise of encoding apart from that of sampling, which has the picture's own seed.
_ENCODING_SEED = 0x5DF0


class InitPictures:
    """The initial pictures of a job, read and made ready once."""

    def __init__(self, context: RunContext) -> None:
        """Read the files that the request refers to.

        Raises:
            NotFound: one is gone.
            InvalidRequest: one cannot be read any more.
        """
        self._context = context
        request, settings = context.request, context.settings
        mask = None if request.mask is None else open_input(context, request.mask, "mask")
        upscaler = picture_upscaler(context, settings.upscaler_for_img2img)
        self._prepared = [
            prepare(
                flattened(
                    open_input(context, image, "init_images"), settings.img2img_background_color
                ),
                mask,
                request,
                settings,
                upscaler,
            )
            for image in request.init_images
        ]
        if mask is not None and any(one.mask is None for one in self._prepared):
            context.emit(Notice(text="The mask is empty: the whole picture is redrawn."))
        self._latents: Tensor | None = None

    @property
    def first(self) -> tuple[Image.Image, Image.Image | None]:
        """The first picture as it is redrawn, and its mask (L)."""
        prepared = self._prepared[0]
        return prepared.image, prepared.mask

    @cached_property
    def shown(self) -> list[tuple[ShownPicture, ...]]:
        """What each picture's prompt is about, as it is drawn over."""
        request = self._context.request
        size = request.width or 0, request.height or 0
        return [(ShownPicture.of(one.image.resize(size)),) for one in self._prepared]

    def start(self, bundle: ModelBundle, batch: int) -> Start:
        """Return what a batch starts with."""
        context, request = self._context, self._context.request
        with context.stage("input", batch):
            latents = self._encoded(bundle, batch)
            mask = self._latent_mask(bundle.latent_format)
            if mask is not None:
                mask = mask.to(latents)
                latents = self._with_masked_content(latents, mask, bundle.latent_format)
        asked = request.initial_noise_multiplier
        scale = context.settings.initial_noise_multiplier if asked is None else asked
        return Start(latents=latents, noise_scale=scale, mask=mask, seen=self._seen)

    def finished(self, row: int, drawn: Pixels, shown: Tensor | None = None) -> Pixels:
        """Return the result of row number `row` of a batch.

        `shown` says how far it is seen over its source, (height/8, width/8), in place of the mask.
        """
        prepared = self._prepared[row % len(self._prepared)]
        if shown is not None:
            levels = (shown.float().cpu().numpy() * 255).clip(0, 255).astype(np.uint8)
            prepared = prepared.showing(Image.fromarray(levels))
        return prepared.finished(drawn, overlay=self._context.settings.overlay_inpaint)

    def _seen(self) -> tuple[Tensor, Tensor | None]:
        """Return the pictures and their masks at the size that is drawn, see `Start.seen`."""
        request = self._context.request
        size = request.width or 0, request.height or 0
        pixels = torch.cat([pixels_of(one.image.resize(size), 1) for one in self._prepared])
        if all(one.mask is None for one in self._prepared):
            return pixels, None
        whole = Image.new("L", size, 255)
        masks = [np.asarray(one.mask or whole, np.float32) / 255 for one in self._prepared]
        return pixels, torch.from_numpy(np.stack(masks))[:, None]

    def _encoded(self, bundle: ModelBundle, batch: int) -> Tensor:
        """Return the latents of each picture of a batch; encoded once unless they are drawn."""
        context = self._context
        if self._latents is not None:
            return self._latents
        count = context.request.batch_size
        draws = context.settings.vae_encode_sampling
        pictures = self._prepared * count if draws and len(self._prepared) == 1 else self._prepared
        size = self._latent_size(bundle.latent_format)
        latents = torch.cat(
            [
                encode_picture(context, bundle, one.image, size, batch * count + row)
                for row, one in enumerate(pictures)
            ]
        )
        if len(latents) < count:
            latents = latents.expand(count, -1, -1, -1)
        if not draws:
            self._latents = latents
        return latents

    def _latent_size(self, latent: LatentFormat) -> tuple[int, int]:
        request = self._context.request
        height, width = request.height or 0, request.width or 0
        return height // latent.downscale, width // latent.downscale

    def _latent_mask(self, latent: LatentFormat) -> Tensor | None:
        """Return (1 or batch, 1, height/8, width/8), 1 where to repaint; None for everywhere."""
        if all(one.mask is None for one in self._prepared):
            return None
        return torch.stack([self._mask_of(one, latent) for one in self._prepared])

    def _mask_of(self, one: Prepared, latent: LatentFormat) -> Tensor:
        height, width = self._latent_size(latent)
        if one.mask is None:
            return torch.ones(1, height, width)
        rounded = self._context.request.mask_round
        return torch.from_numpy(latent_mask(one.mask, width, height, rounded=rounded))[None]

    def _with_masked_content(self, latents: Tensor, mask: Tensor, latent: LatentFormat) -> Tensor:
        """Replace what is masked by noise or by nothing, if the request says so."""
        request = self._context.request
        if request.masked_content == _LATENT_NOTHING:
            return latents * (1 - mask)
        if request.masked_content != _LATENT_NOISE:
            return latents
        # Of the first batch's seeds, in all batches (A1111).
        noise = ImageNoise(
            seeds=[request.image_seed(index) for index in range(len(latents))],
            shape=(latent.channels, *latents.shape[-2:]),
            source=self._context.settings.randn_source,
            device=latents.device,
        ).initial()
        return latents * (1 - mask) + noise * mask


def open_input(context: RunContext, image: InputImage, field: str) -> Image.Image:
    """Return a stored picture, RGB or RGBA; `field` is what errors call it."""
    limit = context.settings.max_input_pixels
    return decode_picture(context.read_input(image), field, max_pixels=limit)


def encode_picture(
    context: RunContext,
    bundle: ModelBundle,
    image: Image.Image,
    size: tuple[int, int],
    index: int,
) -> Tensor:
    """Return the latents (1, channels, height, width) of an RGB picture.

    Args:
        context: of the run.
        bundle: whose VAE encodes.
        image: sides that are no multiple of 8 lose the rest.
        size: (height, width) in latents; those of another size are stretched to it.
        index: of the picture in its job, whose seed decides the draw from the VAE's distribution.

    Raises:
        Cancelled: the job was, between two tiles.
    """
    latent = bundle.latent_format
    pixels = pixels_of(image, latent.downscale)
    noise = None
    if context.settings.vae_encode_sampling:
        shape = (1, latent.channels, *(side // latent.downscale for side in pixels.shape[-2:]))
        seed = (context.request.image_seed(index) + _ENCODING_SEED) % 2**32
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    with bundle.vae.stoppable(context.check_cancelled):
        latents = bundle.vae.encode(pixels, noise=noise, tiling=context.tiling)
    if latents.shape[-2:] == size:
        return latents
    return F.interpolate(latents, size=size, mode="bilinear")


def pixels_of(image: Image.Image, multiple: int) -> Tensor:
    """Return an RGB picture as (1, 3, height, width) from 0 to 1, cut to multiples of a number."""
    sides = (max(image.width // multiple, 1), max(image.height // multiple, 1))
    width, height = (side * multiple for side in sides)
    if image.width < width or image.height < height:
        image = image.resize((width, height))
    values = np.asarray(image.crop((0, 0, width, height)))
    return torch.from_numpy(values.astype(np.float32) / 255).permute(2, 0, 1)[None]
