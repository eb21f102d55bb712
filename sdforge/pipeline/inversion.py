"""Noise found in a picture: a pass that walks up, and the img2img that begins with what it found.

A script asks for it (`Extension.inversion`). On the way up network and prompts act alone, without
masks, ControlNets and other extensions: those are for the way down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from sdforge.models.bundle import ModelBundle
from sdforge.pipeline.beside import beside_of
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.denoise import DenoisedBatch, Ready, Stopped, Walk, Watcher, image_noise
from sdforge.pipeline.hooks import Hooks
from sdforge.pipeline.passes import Pass, Start
from sdforge.pipeline.prompt_denoiser import PromptDenoiser
from sdforge.pipeline.prompts import BatchPrompts, batch_prompts
from sdforge.pipeline.refiner import Leg
from sdforge.sampling.inversion import invert, mixed_noise, noise_of
from sdforge.sampling.registry import Denoiser, Noise, SamplerOptions, StepInfo

if TYPE_CHECKING:
    from sdforge.core.extension import Inversion


def prompts_of_inversion(context: RunContext, inversion: Inversion, batch: int) -> BatchPrompts:
    """Return the prompts of the way up: what the picture shows, or what it is drawn with."""
    request = context.request
    if inversion.prompt is not None:
        request = replace(
            request, prompts=(inversion.prompt,), negative_prompts=(inversion.negative_prompt,)
        )
    return batch_prompts(request, batch)


def invert_batch(
    context: RunContext, one: Pass, ready: Ready, start: Start, batch: int
) -> DenoisedBatch:
    """Return the latents of a batch's pictures at the end of the way up, (batch, channels, h, w).

    They are kept for the next batch or job that asks for the same.

    Raises:
        ValueError: the pass begins with no pictures.
    """
    if start.latents is None:
        raise ValueError("there is no picture to find noise in")
    bundle, kept = ready.bundle, context.first_passes
    x = start.latents.to(context.memory.compute_device)
    sigmas = one.sigmas(bundle.denoiser, context.settings)[::-1]
    key = _key(context, one, ready, x, batch)
    if kept is not None and key and (found := kept.get(key)) is not None:
        with context.stage("reuse", batch):
            return DenoisedBatch(found.to(x, copy=True), is_complete=True, bundle=bundle)
    watcher = Watcher(context, one, len(sigmas) - 1, bundle, x, batch)
    unmasked = replace(start, latents=x, mask=None)
    walk = Walk(
        context=context,
        one=one,
        leg=Leg(one.checkpoint, sigmas),
        sigmas=sigmas,
        ready=ready,
        start=unmasked,
        batch=batch,
        function=_function(one),
        hooks=Hooks(()),
        beside=beside_of(context, bundle, one, start, batch),
    )
    noise = image_noise(context, bundle, batch, (one.height, one.width))
    try:
        x = walk.run(x, noise, watcher)
    except Stopped:
        return DenoisedBatch(watcher.last, is_complete=False, bundle=bundle)
    if kept is not None and key:
        kept.put(key, x)
    return DenoisedBatch(x, is_complete=True, bundle=bundle)


class InvertedStart:
    """The pictures again, with the noise that was found in them."""

    def __init__(
        self,
        context: RunContext,
        up: Pass,
        found: DenoisedBatch,
        start: Callable[[ModelBundle, int], Start],
    ) -> None:
        """Take what the pass `up` found, and what makes the start without it."""
        self._context = context
        self._up = up
        self._found = found
        self._start = start

    def of(self, bundle: ModelBundle, batch: int) -> Start:
        """Return the start of the way down.

        The picture's part in the latents at the top is taken off the noise, so that less than full
        strength begins on the straight line between them and the picture, at its own sigma.
        """
        context, up, inversion = self._context, self._up, self._up.inversion
        start = self._start(bundle, batch)
        if start.latents is None or inversion is None:
            raise ValueError("there is no picture that noise was found in")
        top = up.sigmas(bundle.denoiser, context.settings)[0]
        # A1111's scale, for its kind of models; what flow models end in is noise as it is.
        by_deviation = not (inversion.at_own_level or bundle.denoiser.is_flow)
        found = noise_of(self._found.latents, top, by_deviation=by_deviation)
        seeded = image_noise(context, bundle, batch, (up.height, up.width)).initial()
        noise = mixed_noise(found, seeded.to(found), inversion.randomness)
        share = 1.0 - top if bundle.denoiser.is_flow else 1.0
        noise = noise - start.latents.to(found) * (share / top)
        return replace(start, noise=noise, noise_scale=1.0)


def _function(one: Pass) -> Callable[..., Tensor]:
    inversion = one.inversion
    at_own_level = inversion is not None and inversion.at_own_level

    def walk(
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Sequence[float],
        noise: Noise,
        on_step: Callable[[StepInfo], None],
        options: SamplerOptions,
    ) -> Tensor:
        left = len(sigmas) - 1

        def backwards(x: Tensor, sigma: float) -> Tensor:
            # Prompts that change over the steps go back from what they end with.
            nonlocal left
            left -= 1
            if isinstance(denoiser, PromptDenoiser):
                denoiser.call = left
            return denoiser(x, sigma)

        return invert(backwards, x, sigmas, on_step, at_own_level=at_own_level)

    return walk


def _key(context: RunContext, one: Pass, ready: Ready, x: Tensor, batch: int) -> str | None:
    """Return what two ways up share exactly when they end alike; None where they are not kept."""
    inversion, bundle = one.inversion, ready.bundle
    if inversion is None or ready.networks or ready.hypernetworks:
        return None
    prompts = prompts_of_inversion(context, inversion, batch)
    pictures = hashlib.sha256(x.float().cpu().contiguous().numpy().tobytes()).hexdigest()
    seen = [image.sha256 for image in (*context.request.init_images, context.request.mask) if image]
    networks = [component.patch_key for component in bundle.components.values()]
    settings = context.settings.to_json()
    walked = (one.steps, one.cfg_scale, one.distilled_cfg_scale, inversion.at_own_level)
    size = (one.width, one.height, context.tiling, context.request.image_cfg_scale)
    said = (bundle.key, networks, bundle.text.key, prompts, pictures, seen, walked, size, settings)
    return "inversion " + json.dumps(said, sort_keys=True, default=repr)
