"""What a running batch looks like: a linear map of the latents, encoded small and not too often.

A preview costs a matrix product and a JPEG; it is skipped rather than allowed to slow sampling.
"""

from __future__ import annotations

import time

import torch

from sdforge.core.events import PreviewReady
from sdforge.core.settings import Settings
from sdforge.models.bundle import LatentFormat
from sdforge.models.preview import preview_pixels
from sdforge.output.grid import make_grid
from sdforge.output.images import MEDIA_TYPES, encode_image

# Five a second is what an eye follows; more only costs time.
SECONDS_BETWEEN = 0.2


class Previewer:
    """Decides when a preview is due and makes it."""

    def __init__(self, latent_format: LatentFormat, settings: Settings) -> None:
        self._format = latent_format
        self._settings = settings
        self._every = settings.show_progress_every_n_steps
        self._last_step = 0
        self._last_time = 0.0

    def after_step(self, step: int, denoised: torch.Tensor) -> PreviewReady | None:
        """Return a preview of the clean guess after `step` (1-based), or None when none is due."""
        if not self._settings.live_previews_enable or self._every < 1:
            return None
        now = time.perf_counter()
        if step - self._last_step < self._every or now - self._last_time < SECONDS_BETWEEN:
            return None
        self._last_step, self._last_time = step, now
        pictures = [preview_pixels(latents, self._format) for latents in denoised]
        pixels = pictures[0] if len(pictures) == 1 else make_grid(pictures)
        name = self._settings.live_previews_image_format
        image = encode_image(pixels, name, infotext=None)
        return PreviewReady(image=image, media_type=MEDIA_TYPES[name], step=step)
