"""Noise → latents: the sampler's loop over the guided denoiser, for one batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from sdforge.core.events import StepDone
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import OPTIONS, Settings
from sdforge.models.bundle import ModelBundle
from sdforge.models.denoiser import Conditioning
from sdforge.pipeline.conditioning import ConditioningPair
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.preview import Previewer
from sdforge.sampling.guidance import guided
from sdforge.sampling.noise import ImageNoise
from sdforge.sampling.registry import SAMPLERS, Denoiser, SamplerOptions, SamplerSpec, StepInfo
from sdforge.sampling.sigmas import make_sigmas


class _Stopped(Exception):
    """The batch was cancelled or skipped; the latents so far are kept outside."""


@dataclass(frozen=True, eq=False)
class DenoisedBatch:
    """Latents of a batch (batch, channels, height/8, width/8); `is_complete` unless stopped."""

    latents: torch.Tensor
    is_complete: bool


def denoise_batch(
    context: RunContext, bundle: ModelBundle, pair: ConditioningPair, batch: int
) -> DenoisedBatch:
    """Run the sampler for batch number `batch`; stopped batches return what they had reached."""
    request, settings = context.request, context.settings
    spec = SAMPLERS.get(request.sampler)
    sigmas = make_sigmas(
        request.schedule,
        request.steps,
        bundle.denoiser,
        sigma_min=settings.sigma_min,
        sigma_max=settings.sigma_max,
        rho=settings.rho,
        discard_penultimate=(
            spec.discard_penultimate or settings.always_discard_next_to_last_sigma
        ),
        timesteps=spec.timesteps,
    )
    noise = _image_noise(context, bundle, batch)
    x = noise.initial() * _initial_scale(sigmas[0], spec, settings)
    previewer = Previewer(bundle.latent_format, settings)
    last = x

    def on_step(info: StepInfo) -> None:
        nonlocal last
        last = info.denoised
        step = info.index + 1
        context.emit(
            StepDone(step=step, steps=info.steps, batch=batch, batch_count=request.batch_count)
        )
        preview = previewer.after_step(step, info.denoised)
        if preview is not None:
            context.emit(preview)
        if context.control.cancelled or context.control.skip_batch:
            raise _Stopped

    rows = len(x) * (2 if pair.uncond and settings.batch_cond_uncond else 1)
    working_bytes = bundle.denoiser.working_bytes(rows, *x.shape[-2:])
    with context.memory.lease(bundle.denoiser.component, working_bytes=working_bytes) as module:
        denoiser = _guided_denoiser(bundle, module, pair, context)
        step_noise = noise.brownian(_least_positive(sigmas), sigmas[0]) if spec.brownian else noise
        options = _options(request, settings, spec)
        try:
            with torch.inference_mode():
                latents = spec.function(denoiser, x, sigmas, step_noise, on_step, options)
        except _Stopped:
            return DenoisedBatch(last, is_complete=False)
    return DenoisedBatch(latents, is_complete=True)


def _size(request: GenerationRequest) -> tuple[int, int]:
    """Return (height, width) of a resolved request, in pixels."""
    if request.height is None or request.width is None:
        raise ValueError("the request was not resolved: its size is open")
    return request.height, request.width


def _image_noise(context: RunContext, bundle: ModelBundle, batch: int) -> ImageNoise:
    request, settings = context.request, context.settings
    latent = bundle.latent_format
    height, width = (side // latent.downscale for side in _size(request))
    first = batch * request.batch_size
    images = range(first, first + request.batch_size)
    resize_from = (
        request.seed_resize_from_h // latent.downscale,
        request.seed_resize_from_w // latent.downscale,
    )
    return ImageNoise(
        seeds=[request.image_seed(index) for index in images],
        subseeds=[request.image_subseed(index) for index in images],
        subseed_strength=request.subseed_strength,
        resize_from=resize_from if min(resize_from) > 0 else None,
        shape=(latent.channels, height, width),
        source=settings.randn_source,
        device=context.memory.compute_device,
        ensd=settings.eta_noise_seed_delta,
    )


def _initial_scale(sigma: float, spec: SamplerSpec, settings: Settings) -> float:
    """Scale of the first noise: sigma, or the exact deviation of noised latents of variance 1."""
    is_exact = spec.timesteps or settings.sgm_noise_multiplier
    return math.sqrt(1.0 + sigma**2) if is_exact else sigma


def _guided_denoiser(
    bundle: ModelBundle, module: nn.Module, pair: ConditioningPair, context: RunContext
) -> Denoiser:
    request, model = context.request, bundle.denoiser
    cond = pair.cond.repeat(request.batch_size)
    if pair.uncond is None:
        return lambda x, sigma: model.predict(module, x, sigma, cond)
    uncond = pair.uncond.repeat(request.batch_size)
    if context.settings.batch_cond_uncond:
        both = Conditioning.stack([cond, uncond])

        def predict_pair(x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
            first, second = model.predict(module, torch.cat([x, x]), sigma, both).chunk(2)
            return first, second
    else:

        def predict_pair(x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
            return (
                model.predict(module, x, sigma, cond),
                model.predict(module, x, sigma, uncond),
            )

    if request.cfg_scale is None:
        raise ValueError("the request was not resolved: its CFG scale is open")
    return guided(predict_pair, request.cfg_scale)


def _least_positive(sigmas: tuple[float, ...]) -> float:
    return min(sigma for sigma in sigmas if sigma > 0)


def _options(request: GenerationRequest, settings: Settings, spec: SamplerSpec) -> SamplerOptions:
    """Merge the request's sampler parameters with the settings'.

    As in A1111, a setting that was changed from its default beats the request's value.
    """

    def pick(asked: float | None, key: str) -> float:
        setting = float(getattr(settings, key))
        is_default = setting == OPTIONS[key].default
        return asked if asked is not None and is_default else setting

    s_tmax = pick(request.s_tmax, "s_tmax")
    return SamplerOptions(
        eta=request.eta if request.eta is not None else float(getattr(settings, spec.eta_setting)),
        s_churn=pick(request.s_churn, "s_churn"),
        s_tmin=pick(request.s_tmin, "s_tmin"),
        s_tmax=s_tmax or math.inf,
        s_noise=pick(request.s_noise, "s_noise"),
    )
