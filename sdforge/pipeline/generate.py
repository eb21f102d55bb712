"""The spine of a txt2img job: load, encode, denoise, decode, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

from sdforge.core.events import ModelLoading
from sdforge.core.result import GenerationInfo, ImageResult
from sdforge.models.bundle import ModelBundle
from sdforge.pipeline.conditioning import encode_pair
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.decode import decode_latents
from sdforge.pipeline.denoise import DenoisedBatch, denoise_batch


def generate(context: RunContext) -> Iterator[ImageResult]:
    """Yield the pictures of a resolved request, each batch as soon as it is decoded.

    A cancelled job yields what the batch had reached and then raises `Cancelled`; a skipped batch
    yields that too and the job goes on.
    """
    context.memory.configure(context.settings)
    bundle = load_bundle(context)
    request = context.request
    with context.stage("encode"):
        pair = encode_pair(
            context.conditioning,
            bundle,
            request.prompt,
            request.negative_prompt,
            guided=request.cfg_scale != 1.0,
            settings=context.settings,
        )
    for batch in range(request.batch_count):
        context.check_cancelled()
        context.control.skip_batch = False
        with context.stage("denoise", batch):
            denoised = denoise_batch(context, bundle, pair, batch)
        yield from _decoded(context, bundle, denoised, batch)
        if not denoised.is_complete:
            context.check_cancelled()


def load_bundle(context: RunContext) -> ModelBundle:
    """Return the request's checkpoint, loaded; reports progress when it has to be read."""
    title = context.request.checkpoint

    def on_progress(fraction: float) -> None:
        context.emit(ModelLoading(name=title, fraction=fraction))
        context.check_cancelled()

    with context.stage("load"):
        return context.models.get(title, vae=context.settings.sd_vae, on_progress=on_progress)


def _decoded(
    context: RunContext, bundle: ModelBundle, denoised: DenoisedBatch, batch: int
) -> Iterator[ImageResult]:
    with context.stage("decode", batch):
        pictures = list(decode_latents(bundle, denoised.latents))
    for row, pixels in enumerate(pictures):
        index = batch * context.request.batch_size + row
        yield ImageResult(
            pixels=pixels,
            info=_info(context, bundle, index),
            index=index,
            timings=dict(context.timings),
            is_complete=denoised.is_complete,
        )


def _info(context: RunContext, bundle: ModelBundle, index: int) -> GenerationInfo:
    request = context.request
    return GenerationInfo(
        request=request,
        index=index,
        seed=request.image_seed(index),
        subseed=request.image_subseed(index),
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=bundle.identity,
        clip_skip=context.settings.CLIP_stop_at_last_layers,
        version=context.version,
    )
