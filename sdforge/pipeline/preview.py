"""What a running batch looks like: its latents in colours, encoded small and not too often.

By a linear map a preview costs a matrix product and a JPEG; a small decoder of TAESD's kind or the
VAE itself show more and cost more. A preview is skipped rather than allowed to slow sampling, and a
decoder that does not fit beside the denoiser gives way to the linear map.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from sdforge.core.errors import SdforgeError
from sdforge.core.events import PreviewReady
from sdforge.memory.device import is_out_of_memory
from sdforge.memory.policy import MemoryMode
from sdforge.models.bundle import ModelBundle
from sdforge.models.preview import preview_pixels
from sdforge.output.grid import make_grid
from sdforge.output.images import MEDIA_TYPES, encode_image
from sdforge.pipeline.decode import to_pixels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sdforge.pipeline.context import RunContext

log = logging.getLogger(__name__)

# Five to six a second are what an eye follows; more only cost time.
SECONDS_BETWEEN = 0.18
# After a preview by a small decoder so many times what it took pass before the next: 5% of a job at
# most. The linear map costs next to nothing, and who wants the VAE's has been told what it costs.
_PAUSES = 20

_ROOMY = frozenset({MemoryMode.NORMAL, MemoryMode.HIGHVRAM})

# Decodes latents (1, channels, height, width) to (1, 3, height, width) from 0 to 1.
_Decode = Callable[[torch.Tensor], torch.Tensor | None]


class Pace:
    """When previews are due, in seconds of a clock that only rises."""

    def __init__(self, pauses: int) -> None:
        """Leave `pauses` times what a preview took between it and the next."""
        self._pauses = pauses
        self._due = 0.0

    def is_due(self, now: float) -> bool:
        """Say whether it is time for a preview."""
        return now >= self._due

    def made(self, began: float, ended: float) -> None:
        """Note when a preview was made."""
        pause = max(SECONDS_BETWEEN, self._pauses * (ended - began))
        # From when it was due: else a step that ends a little late delays all that follow.
        self._due = max(self._due, began - pause) + pause


class Previewer:
    """Decides when a preview is due and makes it."""

    def __init__(self, context: RunContext, bundle: ModelBundle) -> None:
        """Choose the way to make previews, as `show_progress_type` says; may load a decoder."""
        self._bundle = bundle
        self._settings = settings = context.settings
        self._every = settings.show_progress_every_n_steps
        self._is_on = settings.live_previews_enable and self._every >= 1
        self._decode = _decoder(context, bundle) if self._is_on else None
        self._pace = Pace(_PAUSES if self._decode not in (None, bundle.vae.decode) else 0)
        self._last_step = 0

    def after_step(self, step: int, denoised: torch.Tensor) -> PreviewReady | None:
        """Return a preview of the clean guess after `step` (1-based), or None when none is due."""
        began = time.perf_counter()
        is_due = step - self._last_step >= self._every and self._pace.is_due(began)
        if not self._is_on or not is_due:
            return None
        shown = denoised if self._settings.show_progress_grid else denoised[:1]
        pictures = [self._pixels(latents) for latents in shown.split(1)]
        pixels = pictures[0] if len(pictures) == 1 else make_grid(pictures)
        name = self._settings.live_previews_image_format
        image = encode_image(pixels, name, infotext=None)
        self._last_step = step
        self._pace.made(began, time.perf_counter())
        return PreviewReady(image=image, media_type=MEDIA_TYPES[name], step=step)

    def _pixels(self, latents: torch.Tensor) -> npt.NDArray[np.uint8]:
        if self._decode is not None:
            try:
                decoded = self._decode(latents)
            except (SdforgeError, RuntimeError) as error:
                if not isinstance(error, SdforgeError) and not is_out_of_memory(error):
                    raise
                log.info("previews are coarse from here on: %s", error)
                decoded = None
            if decoded is not None:
                return to_pixels(decoded[0])
            self._decode = None
        return preview_pixels(latents, self._bundle.latent_format)


def _decoder(context: RunContext, bundle: ModelBundle) -> _Decode | None:
    """Return what decodes previews; None for the linear map.

    As in A1111 the VAE makes none in the lean modes, where it would push the denoiser off the card,
    unless `live_preview_allow_lowvram_full` is set; a small decoder takes its place.
    """
    settings = context.settings
    kind = settings.show_progress_type
    is_lean = context.memory.mode not in _ROOMY
    if kind == "Full" and not (is_lean and not settings.live_preview_allow_lowvram_full):
        return bundle.vae.decode
    if kind not in ("Full", "TAESD") or context.decoders is None:
        return None
    if not context.decoders.fits(bundle.vae):
        log.info("no small decoder goes with %s: previews are coarse", bundle.vae.component.name)
        return None
    return partial(context.decoders.decode, bundle.vae, vital=False)
