"""Frames of live mode: the spine of `generate.py` with what stays from one frame to the next.

A frame is one picture of one pass. What a keystroke does not change is not done again: networks in
force, encoded texts, the encoded sketch, the checkpoint; noise comes from the seed and is the same
each time. Every network runs under a lease, as in jobs. Model thread only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sdforge.core.errors import Cancelled
from sdforge.core.events import Event, Notice
from sdforge.core.frame import FULL, LINEAR, SMALL, Frame, FrameRequest
from sdforge.memory.ladder import size_hint, weight_rungs
from sdforge.models.adapters.embedding_library import EmbeddingTokenizer
from sdforge.models.adapters.lora import Applied
from sdforge.models.bundle import ModelBundle
from sdforge.models.preview import preview_pixels
from sdforge.models.preview_decoder import PreviewDecoders
from sdforge.models.text_encoder import Chunk, Situation
from sdforge.models.tokenizers import Tokenizer
from sdforge.pipeline.conditioning import (
    BatchConditioning,
    ConditioningCache,
    Pictures,
    PromptEncoder,
    PromptText,
)
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.decode import decode_latents, to_pixels
from sdforge.pipeline.denoise import DenoisedBatch, Ready, denoise_batch
from sdforge.pipeline.generate import load_bundle
from sdforge.pipeline.hypernetworks import used_hypernetworks
from sdforge.pipeline.img2img import InitPictures
from sdforge.pipeline.networks import apply_networks
from sdforge.pipeline.passes import Pass, Start, plan_passes
from sdforge.pipeline.prompts import BatchPrompts, batch_prompts
from sdforge.prompt.networks import ExtraNetwork

# The last texts that were typed: 17 of SD 1.x, 6 of SDXL. A cache that goes on growing through an
# evening of typing would be a leak by another name.
_CACHE_BYTES = 4 * 2**20
# Sessions whose last frame is kept, a few hundred kilobytes each.
_SESSIONS = 16

Pixels = npt.NDArray[np.uint8]


class Clock:
    """Seconds by stage; a stage inside another one is taken out of that."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        inside = sum(self.seconds.values())
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started - (sum(self.seconds.values()) - inside)
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


@dataclass(frozen=True, eq=False)
class _TimedPrompt:
    """A prompt that counts the time in which it is cut into tokens."""

    prompt: PromptText
    clock: Clock

    @property
    def text(self) -> str:
        return self.prompt.text

    @property
    def is_empty(self) -> bool:
        return self.prompt.is_empty

    @property
    def is_negative(self) -> bool:
        return self.prompt.is_negative

    @property
    def pictures(self) -> Pictures:
        return self.prompt.pictures

    def chunks(self, tokenizer: EmbeddingTokenizer) -> Sequence[Chunk]:
        with self.clock.stage("tokenise"):
            return self.prompt.chunks(tokenizer)

    def tokens(self, tokenizer: Tokenizer, least: int) -> Chunk:
        with self.clock.stage("tokenise"):
            return self.prompt.tokens(tokenizer, least)


@dataclass(frozen=True, eq=False)
class _Kept:
    """The last sketch in latents, and what it depends on."""

    key: tuple[object, ...]
    start: Start


@dataclass(frozen=True, eq=False)
class _InForce:
    """The networks that were put on a checkpoint."""

    bundle: ModelBundle
    networks: tuple[ExtraNetwork, ...]
    applied: Applied


class FramePainter:
    """Draws frames."""

    def __init__(self, decoders: PreviewDecoders) -> None:
        """Hold nothing yet."""
        self._decoders = decoders
        self._conditioning = ConditioningCache(_CACHE_BYTES)
        self._in_force: _InForce | None = None
        self._sketch: _Kept | None = None
        # By session: the checkpoint's key, which outlives its bundle, and what it drew.
        self._last: OrderedDict[str, tuple[str, Tensor]] = OrderedDict()

    def interrupted(self) -> None:
        """Take note that a job ran, which may have put other networks on the checkpoint."""
        self._in_force = None

    def forget(self) -> None:
        """Drop everything that is kept between frames, the decoder too."""
        self._in_force = self._sketch = None
        self._conditioning.clear()
        self._last.clear()
        self._decoders.unload()

    def draw(self, context: RunContext, wanted: FrameRequest) -> Frame:
        """Return one frame.

        Args:
            context: of this frame alone; its request is `wanted`'s.
            wanted: what to draw.

        Raises:
            Cancelled: told to stop.
            SdforgeError: as `generate` does.
        """
        notes: list[str] = []
        clock, settings = Clock(), context.settings
        context.emit = _with_notes(context.emit, notes)
        context.memory.configure(settings)
        if not settings.persistent_cond_cache:
            self._conditioning.clear()
        one = plan_passes(context.request, settings)[0]
        with clock.stage("load"):
            bundle = load_bundle(context)
        prompts = batch_prompts(context.request, 0)
        with clock.stage("encode"):
            ready = self._ready(context, bundle, prompts, one, clock)
        start, went_on = self._start(context, bundle, wanted, clock)
        if went_on:
            one = replace(one, strength=context.request.denoising_strength)
        with clock.stage("denoise"):
            latents = _denoised(context, one, ready, start)
            _finish(latents)
        self._remember(wanted.session, bundle, latents)
        pixels, decoder = self._decoded(bundle, latents, wanted.decoder, clock)
        return Frame(
            pixels=pixels,
            decoder=decoder,
            timings=clock.seconds,
            went_on=went_on,
            vae_width=bundle.vae.width,
            notes=tuple(dict.fromkeys(notes)),
        )

    def _ready(
        self,
        context: RunContext,
        bundle: ModelBundle,
        prompts: BatchPrompts,
        one: Pass,
        clock: Clock,
    ) -> Ready:
        held = self._in_force
        if held is None or held.bundle is not bundle or held.networks != prompts.networks:
            applied = apply_networks(context, bundle, prompts.networks)
            held = self._in_force = _InForce(bundle, prompts.networks, applied)
        return Ready(
            bundle,
            self._encoded(context, bundle, prompts, one, clock),
            held.applied.over_steps,
            used_hypernetworks(context, bundle, prompts.networks),
        )

    def _encoded(
        self,
        context: RunContext,
        bundle: ModelBundle,
        prompts: BatchPrompts,
        one: Pass,
        clock: Clock,
    ) -> BatchConditioning:
        settings, memory = context.settings, context.memory
        situation = Situation(
            width=one.width, height=one.height, distilled_cfg_scale=one.distilled_cfg_scale
        )
        encoder = PromptEncoder(
            self._conditioning,
            bundle,
            settings,
            one.timeline(old=settings.use_old_scheduling),
            situation,
            lambda prompt: _TimedPrompt(prompt, clock),
            InitPictures(context).shown
            if context.request.init_images and bundle.text.sees_pictures
            else (),
        )

        def attempt() -> BatchConditioning:
            return encoder.batch(prompts, with_blank=bool(context.extensions))

        return memory.ladder.run("text encoder", attempt, weight_rungs(memory))

    def _start(
        self, context: RunContext, bundle: ModelBundle, wanted: FrameRequest, clock: Clock
    ) -> tuple[Start, bool]:
        """Return what the frame starts with, and whether that is the last frame."""
        request = context.request
        if wanted.goes_on:
            last = self._last.get(wanted.session)
            scale = bundle.latent_format.downscale
            size = (request.height or 0) // scale, (request.width or 0) // scale
            if last is None or last[0] != bundle.key or tuple(last[1].shape[-2:]) != size:
                return Start(), False
            return Start(latents=last[1]), True
        if not request.init_images:
            self._sketch = None
            return Start(), False
        drawn_at = (request.width, request.height, request.resize_mode)
        key = (bundle.key, request.init_images, *drawn_at)
        kept = self._sketch
        if kept is None or kept.key != key:
            with clock.stage("input"):
                make = partial(InitPictures(context).start, bundle, 0)
                start = context.memory.ladder.run("start", make, weight_rungs(context.memory))
            kept = self._sketch = _Kept(key, start)
        return kept.start, False

    def _remember(self, session: str, bundle: ModelBundle, latents: Tensor) -> None:
        self._last[session] = bundle.key, latents
        self._last.move_to_end(session)
        while len(self._last) > _SESSIONS:
            self._last.popitem(last=False)

    def _decoded(
        self, bundle: ModelBundle, latents: Tensor, decoder: str, clock: Clock
    ) -> tuple[Pixels, str]:
        """Return the picture, and the decoder that made it."""
        if decoder == LINEAR:
            with clock.stage("decode"):
                return preview_pixels(latents, bundle.latent_format), LINEAR
        if decoder == SMALL:
            with clock.stage("decode"), torch.inference_mode():
                shown = self._decoders.decode(bundle.vae, latents)
                _finish(shown)
            if shown is not None:
                with clock.stage("copy"):
                    return to_pixels(shown[0]), SMALL
        with clock.stage("decode"):
            return next(iter(decode_latents(bundle, latents))), FULL


def _denoised(context: RunContext, one: Pass, ready: Ready, start: Start) -> Tensor:
    """Return the latents of a frame; raises `Cancelled` when it was told to stop."""
    memory = context.memory

    def attempt() -> DenoisedBatch:
        return denoise_batch(context, one, ready, start, 0, lambda title: ready)

    def hint() -> str:
        return size_hint(memory.last_plan, one.width, one.height)

    denoised = memory.ladder.run("sampler", attempt, weight_rungs(memory), hint)
    if not denoised.is_complete:
        raise Cancelled("the frame gave way to a job")
    return denoised.latents


def _finish(values: Tensor | None) -> None:
    """Wait for what a GPU still computes, so that its time counts where it belongs."""
    if values is not None and values.device.type == "cuda":
        torch.cuda.synchronize(values.device)


def _with_notes(emit: Callable[[Event], None], notes: list[str]) -> Callable[[Event], None]:
    """Return an `emit` that keeps notices as well."""

    def told(event: Event) -> None:
        if isinstance(event, Notice):
            notes.append(event.text)
        emit(event)

    return told
