"""The spine of a job: load, encode, then pass by pass denoise, and decode, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sdforge.core.errors import Cancelled
from sdforge.core.events import ModelLoading
from sdforge.core.result import GenerationInfo, ImageResult, ModelIdentity
from sdforge.memory.ladder import size_hint, weight_rungs
from sdforge.models.bundle import ModelBundle
from sdforge.models.text_encoder import Situation
from sdforge.pipeline.beside import beside_infotext
from sdforge.pipeline.conditioning import BatchConditioning, Pictures, PromptEncoder
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.control import ControlUnits
from sdforge.pipeline.decode import decode_batch
from sdforge.pipeline.denoise import DenoisedBatch, Ready, denoise_batch
from sdforge.pipeline.detailing import Detailing, draws_first
from sdforge.pipeline.faces import (
    BEFORE_FACES,
    leave_faces_without_files,
    restored_picture,
    restores_faces,
)
from sdforge.pipeline.first_pass import first_pass_key
from sdforge.pipeline.hires import GivenStart, HiresStart
from sdforge.pipeline.hooks import Hooks
from sdforge.pipeline.hypernetworks import used_hypernetworks
from sdforge.pipeline.img2img import InitPictures, open_input
from sdforge.pipeline.inversion import InvertedStart, invert_batch, prompts_of_inversion
from sdforge.pipeline.networks import apply_networks, network_infotext
from sdforge.pipeline.passes import HIRES, INVERSION, Pass, Start, plan_passes
from sdforge.pipeline.prompts import BatchPrompts, batch_prompts
from sdforge.pipeline.references import ReferencePictures, references_infotext
from sdforge.postprocess.decoding import flattened

if TYPE_CHECKING:
    import numpy.typing as npt

BEFORE_HIRES = "-before-highres-fix"

StartMaker = Callable[[ModelBundle, int], Start]


def generate(context: RunContext) -> Iterator[ImageResult]:
    """Yield the pictures of a resolved request, each batch as soon as it is decoded.

    A cancelled job yields what the batch had reached and then raises `Cancelled`; a skipped batch
    yields that too and the job goes on.
    """
    context.memory.configure(context.settings)
    if not context.settings.persistent_cond_cache:
        context.conditioning.clear()
    leave_faces_without_files(context)
    detailing = Detailing(context, generate)
    run = _Run(detailing.drawing())
    make = run.batch if draws_first(context.extensions, context.request) else run.given
    for batch in range(context.request.batch_count):
        context.check_cancelled()
        context.control.skip_batch = False
        yield from detailing.batch(make(batch), batch, run.let_go)


def load_bundle(
    context: RunContext, title: str = "", modules: Sequence[str] | None = None
) -> ModelBundle:
    """Return a checkpoint ("": the request's), loaded; reports progress when it has to be read.

    `modules` stand in for those that the settings name.
    """
    title = title or context.request.checkpoint

    def on_progress(fraction: float) -> None:
        context.emit(ModelLoading(name=title, fraction=fraction))
        context.check_cancelled()

    with context.stage("load"):
        return context.models.get(
            title,
            vae=context.settings.sd_vae,
            modules=context.settings.forge_additional_modules if modules is None else modules,
            on_progress=on_progress,
        )


def encode_batch(
    context: RunContext,
    bundle: ModelBundle,
    prompts: BatchPrompts,
    one: Pass,
    batch: int,
    pictures: Sequence[Pictures] = (),
) -> BatchConditioning:
    """Return the conditioning of a batch in a pass; `pictures` are what its prompts are about."""
    settings, memory = context.settings, context.memory
    timeline = one.timeline(old=settings.use_old_scheduling)
    situation = Situation(
        width=one.width, height=one.height, distilled_cfg_scale=one.distilled_cfg_scale
    )
    encoder = PromptEncoder(
        context.conditioning, bundle, settings, timeline, situation, pictures=pictures
    )

    def attempt() -> BatchConditioning:
        return encoder.batch(prompts, with_blank=bool(context.extensions))

    with context.stage("encode", batch):
        return memory.ladder.run("text encoder", attempt, weight_rungs(memory))


@dataclass(frozen=True, eq=False)
class _Encoded:
    """The last prompts that were encoded, and for what."""

    one: Pass
    prompts: BatchPrompts
    ready: Ready


class _Run:
    """The batches of one job, and what they share: the loaded checkpoint, prompts, pictures."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        inversion = Hooks(context.extensions).inversion(context.request)
        self._passes = plan_passes(context.request, context.settings, inversion)
        # The title and the modules that the bundle was loaded by.
        self._loaded: tuple[str, Sequence[str] | None] = ("", None)
        self._bundle: ModelBundle | None = None
        self._encoded: _Encoded | None = None
        # Infotext of the networks in force, by pass and then by picture of the batch.
        self._networks: dict[str, list[Mapping[str, str]]] = {}
        self._identify: dict[str, Callable[[], ModelIdentity]] = {}
        self._pictures = InitPictures(context) if context.request.init_images else None
        self._references = ReferencePictures(context) if context.request.references else None
        self._control = ControlUnits(context, self._pictures)

    def batch(self, batch: int) -> Iterator[ImageResult]:
        """Yield the pictures of one batch."""
        denoised: DenoisedBatch | None = None
        saves_first = self._context.settings.save_images_before_highres_fix
        for one in self._passes:
            if one.name == HIRES and denoised is not None and saves_first:
                yield from self._decoded(denoised, batch, suffix=BEFORE_HIRES)
            try:
                denoised = self._run(one, batch, self._start_maker(one, denoised, batch))
            except Cancelled:
                if one.name == HIRES and denoised and denoised.bundle is self._bundle:
                    # Before its first step: the first pass is what was reached, and what drew it
                    # has not left for another checkpoint.
                    yield from self._decoded(replace(denoised, is_complete=False), batch)
                raise
            if not denoised.is_complete:
                break
        if denoised is not None:
            yield from self._decoded(denoised, batch)

    def given(self, batch: int) -> Iterator[ImageResult]:
        """Yield the given pictures themselves as those of a batch."""
        context = self._context
        bundle = self._load(self._passes[0].checkpoint, None)
        hooks, colour = Hooks(context.extensions), context.settings.img2img_background_color
        images = context.request.init_images
        for row in range(context.request.batch_size):
            picture = open_input(context, images[row % len(images)], "init_images")
            index = batch * context.request.batch_size + row
            pixels = np.asarray(flattened(picture, colour))
            yield self._result(bundle, hooks, index, row, pixels, suffix="")

    def let_go(self) -> None:
        """Forget what drew last: another run may use, change or release it."""
        self._bundle, self._encoded, self._loaded = None, None, ("", None)

    def _start_maker(self, one: Pass, before: DenoisedBatch | None, batch: int) -> StartMaker:
        """Return what makes a pass's start of the pictures and of the pass before it, if any."""
        if one.name == HIRES and before is None:
            return GivenStart(self._context, one).of
        if before is None:
            return self._start
        if one.name == HIRES:
            return HiresStart(self._context, one, before, batch).of
        return InvertedStart(self._context, self._passes[0], before, self._start).of

    def _run(self, one: Pass, batch: int, make_start: StartMaker) -> DenoisedBatch:
        """Run a pass; where memory runs out between two forwards, all of it again, leaner."""
        context, memory = self._context, self._context.memory
        prepare = partial(self._ready, one, batch)
        ready = prepare(one.checkpoint)
        key = first_pass_key(context, one, ready, batch)
        if key is not None and one.steps_after and (again := self._again(key, ready, batch)):
            return again
        make = partial(make_start, ready.bundle, batch)
        start = memory.ladder.run("start", make, weight_rungs(memory))

        def attempt() -> DenoisedBatch:
            # A refiner may have taken the first checkpoint's place when the pass begins again.
            ready = prepare(one.checkpoint)
            if one.name == INVERSION:
                return invert_batch(context, one, ready, start, batch)
            further = None if self._references is None else self._references.latents
            return denoise_batch(context, one, ready, start, batch, prepare, self._control, further)

        def hint() -> str:
            return size_hint(memory.last_plan, one.width, one.height)

        with context.stage("denoise", batch):
            done = memory.ladder.run("sampler", attempt, weight_rungs(memory), hint)
        if key is not None and context.first_passes is not None and done.is_complete:
            context.first_passes.put(key, done.latents)
        return done

    def _again(self, key: str, ready: Ready, batch: int) -> DenoisedBatch | None:
        """Return a first pass that was drawn before, for a second one to go on from."""
        context = self._context
        latents = context.first_passes.get(key) if context.first_passes is not None else None
        if latents is None:
            return None
        with context.stage("reuse", batch):
            latents = latents.to(context.memory.compute_device, copy=True)
            return DenoisedBatch(latents, is_complete=True, bundle=ready.bundle)

    def _start(self, bundle: ModelBundle, batch: int) -> Start:
        return Start() if self._pictures is None else self._pictures.start(bundle, batch)

    def _ready(self, one: Pass, batch: int, title: str) -> Ready:
        """Return a checkpoint with the batch's prompts; nothing is done twice in a row."""
        context = self._context
        bundle = self._load(title, one.modules)
        if one.inversion is not None:
            prompts = prompts_of_inversion(context, one.inversion, batch)
        else:
            prompts = batch_prompts(context.request, batch, hires=one.name == HIRES)
        last = self._encoded
        if last and last.ready.bundle is bundle and (last.one, last.prompts) == (one, prompts):
            return last.ready
        applied = apply_networks(context, bundle, prompts.networks, hires=one.name == HIRES)
        self._networks[one.name] = [
            network_infotext(context, bundle, applied, texts)
            for texts in zip(prompts.positive, prompts.negative, strict=True)
        ]
        ready = Ready(
            bundle,
            encode_batch(context, bundle, prompts, one, batch, self._shown(bundle)),
            applied.over_steps,
            used_hypernetworks(context, bundle, prompts.networks),
        )
        self._encoded = _Encoded(one, prompts, ready)
        return ready

    def _shown(self, bundle: ModelBundle) -> Sequence[Pictures]:
        if not bundle.text.sees_pictures:
            return ()
        own = [()] if self._pictures is None else self._pictures.shown
        further = () if self._references is None else self._references.shown
        return [(*pictures, *further) for pictures in own]

    def _load(self, title: str, modules: Sequence[str] | None) -> ModelBundle:
        if self._bundle is None or (title, modules) != self._loaded:
            # Let go of the old one first: it is released by what loads the next.
            self._bundle, self._encoded = None, None
            self._bundle = load_bundle(self._context, title, modules)
            self._loaded = title, modules
            # A second pass with another VAE does not change what the first was drawn with.
            self._identify.setdefault(title, self._bundle.identify)
        return self._bundle

    def _decoded(
        self, denoised: DenoisedBatch, batch: int, suffix: str = ""
    ) -> Iterator[ImageResult]:
        context = self._context
        request, bundle = context.request, denoised.bundle
        if context.settings.diffusers_move_unet:
            context.memory.evict_all()
        is_whole = denoised.is_complete
        pictures: list[npt.NDArray[np.uint8]] = []
        # What was cancelled before is shown all the same; what is cancelled now ends here.
        with context.stage("decode", batch), suppress(Cancelled):
            pictures.extend(decode_batch(context, bundle, denoised.latents, stops=is_whole))
        hooks = Hooks(context.extensions)
        for row, drawn in enumerate(pictures):
            make = partial(self._result, bundle, hooks, batch * request.batch_size + row, row)
            pixels = drawn
            if not suffix and restores_faces(context):
                if context.settings.save_images_before_face_restoration:
                    yield make(drawn, suffix=BEFORE_FACES)
                restored = restored_picture(context, drawn, batch)
                is_whole = is_whole and restored is not None
                pixels = drawn if restored is None else restored
            pixels = pixels if suffix else hooks.picture(request, pixels)
            if self._pictures is not None:
                shown = None if denoised.shown is None else denoised.shown[row]
                pixels = self._pictures.finished(row, pixels, shown)
            yield replace(make(pixels, suffix=suffix), is_complete=is_whole)
        if not is_whole or len(pictures) < request.batch_size:
            context.check_cancelled()

    def _result(
        self,
        bundle: ModelBundle,
        hooks: Hooks,
        index: int,
        row: int,
        pixels: npt.NDArray[np.uint8],
        *,
        suffix: str,
    ) -> ImageResult:
        context = self._context
        extra = {
            **beside_infotext(context, bundle),
            **references_infotext(context),
            **self._network_infotext(row),
            **self._control.infotext(),
            **hooks.infotext(),
        }
        return ImageResult(
            pixels=pixels,
            info=self._info(index, extra),
            index=index,
            timings=dict(context.timings),
            suffix=suffix,
        )

    def _network_infotext(self, row: int) -> dict[str, str]:
        """Return the keys of all passes as one; a network of several passes is listed once."""
        found: dict[str, dict[str, None]] = {}
        for pictures in self._networks.values():
            for key, text in pictures[row].items():
                found.setdefault(key, {}).update(dict.fromkeys(text.split(", ")))
        return {key: ", ".join(pairs) for key, pairs in found.items()}

    def _info(self, index: int, extra: Mapping[str, str]) -> GenerationInfo:
        context = self._context
        request = context.request
        if self._bundle is not None and self._bundle.text.is_guided:
            extra = {"Distilled CFG Scale": str(self._passes[0].distilled_cfg_scale), **extra}
        if notes := context.memory.ladder.notes:
            extra = {**extra, "Memory ladder": "; ".join(notes)}
        models = {title: identify() for title, identify in self._identify.items()}
        return GenerationInfo(
            request=request,
            index=index,
            seed=request.image_seed(index),
            subseed=request.image_subseed(index),
            prompt=request.image_prompt(index),
            negative_prompt=request.image_negative_prompt(index),
            model=models[request.checkpoint],
            clip_skip=context.settings.CLIP_stop_at_last_layers,
            version=context.version,
            extra=extra,
            others=models,
        )
