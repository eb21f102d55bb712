"""Calls the hooks of a job's extensions, in order of how deep they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sdforge.core.extension import (
    Active,
    DenoiseContext,
    Guided,
    Inversion,
    MaskBlend,
    NetworkEdit,
    StepState,
)
from sdforge.core.request import GenerationRequest
from sdforge.pipeline.masked_denoiser import blended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdforge.pipeline.conditioning import BatchConditioning
    from sdforge.pipeline.prompt_denoiser import PromptDenoiser


class Hooks:
    """The extensions of one job. With none, everything passes through untouched."""

    def __init__(self, active: Sequence[Active]) -> None:
        self._active = tuple(active)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._active)

    def inversion(self, request: GenerationRequest) -> Inversion | None:
        """Return how the noise of img2img is found in its picture; None for that of the seeds."""
        if not request.init_images:
            return None
        found = (one.extension.inversion(request, one.values) for one in self._active)
        return next((one for one in found if one is not None), None)

    def conditioning(
        self, context: DenoiseContext, conditioning: BatchConditioning
    ) -> BatchConditioning:
        """Return the encoded prompts to use."""
        for one in self._active:
            conditioning = one.extension.on_conditioning(context, conditioning, one.values)
        return conditioning

    def denoiser(self, context: DenoiseContext, base: PromptDenoiser) -> Guided:
        """Return what the sampler shall call."""
        if not self._active:
            return base
        wrapped: Guided = base
        for one in self._active:
            wrapped = one.extension.wrap_denoiser(context, wrapped, one.values)
        return base if wrapped is base else _OneCallAtATime(wrapped, base)

    def blended(self, blend: MaskBlend) -> Tensor:
        """Return latents of a pass with a mask: the drawn ones in it, the source outside."""
        for one in self._active:
            made = one.extension.blend_masked(blend, one.values)
            if made is not None:
                return made
        return blended(blend.drawn, blend.source, blend.mask)

    def overlay(self, blend: MaskBlend) -> Tensor | None:
        """Return how far the result shows what was drawn, None for what the mask says."""
        for one in self._active:
            made = one.extension.overlay_mask(blend, one.values)
            if made is not None:
                return made
        return None

    def step(self, context: DenoiseContext, state: StepState) -> None:
        """Tell of a finished step."""
        for one in self._active:
            one.extension.on_step(context, state, one.values)

    def latents(self, context: DenoiseContext, latents: Tensor) -> Tensor:
        """Return the latents to decode."""
        for one in self._active:
            latents = one.extension.on_latents(context, latents, one.values)
        return latents

    def picture(
        self, request: GenerationRequest, pixels: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Return the picture to save."""
        for one in self._active:
            pixels = one.extension.on_picture(request, pixels, one.values)
        return pixels

    def infotext(self) -> dict[str, str]:
        """Return the infotext keys of all extensions."""
        said: dict[str, str] = {}
        for one in self._active:
            said |= one.extension.infotext(one.values)
        return said


class _OneCallAtATime:
    """The outermost layer: within one call of the sampler, the network answers each question once.

    Between calls nothing is remembered, so a sampler may do with its latents what it likes.
    """

    def __init__(self, inner: Guided, base: PromptDenoiser) -> None:
        self._inner = inner
        self._base = base

    @property
    def cfg_scale(self) -> float:
        return self._inner.cfg_scale

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        with self._base.one_call():
            return self._inner(x, sigma)

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        with self._base.one_call():
            return self._inner.with_uncond(x, sigma)

    def guesses(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor | None]:
        return self._inner.guesses(x, sigma)

    def guess(
        self, x: Tensor, sigma: float, *, of: str = "cond", edit: NetworkEdit | None = None
    ) -> Tensor:
        return self._inner.guess(x, sigma, of=of, edit=edit)
