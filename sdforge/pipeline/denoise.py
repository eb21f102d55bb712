"""Noise or noised latents → latents: the sampler's loop over the guided denoiser, for one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sdforge.core.events import StepDone
from sdforge.core.extension import DenoiseContext, Guided, MaskBlend
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import OPTIONS, Settings
from sdforge.memory.calibration import START_DENOISER
from sdforge.memory.lease import Lease
from sdforge.models.adapters.lora_patches import NetworksOverSteps
from sdforge.models.bundle import ModelBundle
from sdforge.models.denoiser import Conditioning
from sdforge.models.edits import circular_padding
from sdforge.pipeline.beside import Beside, References, beside_of
from sdforge.pipeline.conditioning import BatchConditioning
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.control import ControlUnits
from sdforge.pipeline.controlled import Control, said_bytes
from sdforge.pipeline.guard import GuardedDenoiser
from sdforge.pipeline.hooks import Hooks
from sdforge.pipeline.hypernetworks import HypernetworkUse, place_hypernetworks
from sdforge.pipeline.masked_denoiser import MaskedDenoiser
from sdforge.pipeline.passes import Pass, Start
from sdforge.pipeline.placed import PlacedUnit
from sdforge.pipeline.preview import Previewer
from sdforge.pipeline.prompt_denoiser import PromptDenoiser, rows_at_once
from sdforge.pipeline.refiner import Leg, check_same_latents, legs
from sdforge.sampling.guidance import UncondSkips
from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.noise import ImageNoise
from sdforge.sampling.registry import (
    SAMPLERS,
    Noise,
    SamplerFunction,
    SamplerOptions,
    SamplerSpec,
    StepInfo,
)


class Stopped(Exception):
    """The batch was cancelled or skipped; the latents so far are kept outside."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A loaded checkpoint, and the prompts of a batch in its terms.

    `networks` are those whose weight changes while a pass goes on.
    """

    bundle: ModelBundle
    conditioning: BatchConditioning
    networks: NetworksOverSteps | None = None
    hypernetworks: tuple[HypernetworkUse, ...] = ()


@dataclass(frozen=True, eq=False)
class DenoisedBatch:
    """Latents of a batch (batch, channels, height/8, width/8); `is_complete` unless stopped.

    `bundle` is what drew them last: the refiner where there is one. `shown` says how far the result
    shows them over its source, (batch, height/8, width/8) from 0 to 1; None for what the mask says.
    """

    latents: Tensor
    is_complete: bool
    bundle: ModelBundle
    shown: Tensor | None = None


# Loads a checkpoint by its title and encodes the batch's prompts for it.
Prepare = Callable[[str], Ready]


def denoise_batch(
    context: RunContext,
    one: Pass,
    ready: Ready,
    start: Start,
    batch: int,
    prepare: Prepare,
    control: ControlUnits | None = None,
    references: References | None = None,
) -> DenoisedBatch:
    """Run one pass of batch number `batch`; stopped batches return what they had reached."""
    settings, spec = context.settings, SAMPLERS.get(one.sampler)
    first = ready.bundle
    sigmas = one.sigmas(first.denoiser, settings)
    if len(sigmas) < 2 and start.latents is not None:
        return DenoisedBatch(start.latents, is_complete=True, bundle=first)
    noise = image_noise(context, first, batch, (one.height, one.width))
    x = start.noised(noise.initial(), sigmas[0], spec, settings, is_flow=first.denoiser.is_flow)
    watcher = Watcher(context, one, len(sigmas) - 1, first, x, batch)
    step_noise = noise.brownian(_least_positive(sigmas), sigmas[0]) if spec.brownian else noise
    levels = one.noise_levels(first.denoiser)
    hooks = Hooks(context.extensions)
    parts = legs(one, sigmas, levels, by_steps=settings.refiner_switch_by_sample_steps)
    for leg in parts:
        if leg.checkpoint != one.checkpoint:
            ready = prepare(leg.checkpoint)
            check_same_latents(first, ready.bundle)
            if settings.diffusers_move_base:
                context.memory.evict_all()
        walk = Walk(
            context=context,
            one=one,
            leg=leg,
            sigmas=sigmas,
            ready=ready,
            start=start,
            batch=batch,
            function=spec.function,
            hooks=hooks,
            is_last=leg is parts[-1],
            control=control,
            beside=beside_of(context, ready.bundle, one, start, batch, references),
        )
        try:
            x = walk.run(x, step_noise, watcher)
        except Stopped:
            return DenoisedBatch(watcher.last, is_complete=False, bundle=ready.bundle)
    if ready.bundle is not first and settings.diffusers_move_refiner:
        context.memory.evict_all()
    if start.mask is None or start.latents is None:
        return DenoisedBatch(x, is_complete=True, bundle=ready.bundle)
    blend = MaskBlend(drawn=x, source=start.latents, mask=start.mask, sigma=0.0)
    x = hooks.blended(blend)
    shown = hooks.overlay(replace(blend, drawn=x))
    return DenoisedBatch(x, is_complete=True, bundle=ready.bundle, shown=shown)


class Watcher:
    """Tells of steps, makes previews, and stops the walk when somebody asked for it."""

    def __init__(
        self, context: RunContext, one: Pass, steps: int, bundle: ModelBundle, x: Tensor, batch: int
    ) -> None:
        self._context = context
        self._pass = one
        self._steps = steps
        self._batch = batch
        self._bundle = bundle
        self._previewer = Previewer(context, bundle)
        self.last = x

    def step(self, info: StepInfo) -> None:
        """Take note of a step, numbered in the pass; raises `Stopped`."""
        context, one = self._context, self._pass
        self.last = info.denoised
        step = info.index + 1
        if step == self._steps:
            context.memory.prefetch(self._bundle.vae.component)
        context.emit(
            StepDone(
                step=one.steps_before + step,
                steps=one.steps_before + self._steps + one.steps_after,
                batch=self._batch,
                batch_count=context.request.batch_count,
            )
        )
        preview = self._previewer.after_step(step, info.denoised)
        if preview is not None:
            context.emit(preview)
        if context.control.cancelled or context.control.skip_batch:
            raise Stopped


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """One leg of a pass: a lease of its network, extensions, and the sampler's function."""

    context: RunContext
    one: Pass
    leg: Leg
    sigmas: tuple[float, ...]
    ready: Ready
    start: Start
    batch: int
    function: SamplerFunction
    hooks: Hooks
    is_last: bool = False
    control: ControlUnits | None = None
    beside: Beside | None = None

    def run(self, x: Tensor, noise: Noise, watcher: Watcher) -> Tensor:
        """Return the latents at the end of the leg."""
        with ExitStack() as stack:
            return self._run(x, noise, watcher, stack)

    def _run(self, x: Tensor, noise: Noise, watcher: Watcher, stack: ExitStack) -> Tensor:
        context, one, leg = self.context, self.one, self.leg
        request, settings = context.request, context.settings
        bundle, conditioning = self.ready.bundle, self.ready.conditioning
        spec = SAMPLERS.get(one.sampler)
        hooks = self.hooks
        rows = rows_at_once(
            conditioning, one.cfg_scale, batched=settings.batch_cond_uncond, beside=self.beside
        )
        units = self._units(stack, rows, x)
        needed = self._needed(rows, x)
        through = place_hypernetworks(
            context.memory, bundle, self.ready.hypernetworks, stack, needed
        )
        lease = self._lease(rows, x, units)
        self._set_networks(leg.sigmas[0])
        with lease as module:
            told = DenoiseContext(
                request=request,
                settings=settings,
                sigmas=self.sigmas,
                network=module,
                batch=self.batch,
                pass_name=one.name,
            )
            model = GuardedDenoiser(
                bundle.denoiser,
                context.memory,
                lease,
                size=(one.width, one.height),
                rows=rows,
                control=Control(units, told.fraction) if units else None,
                beside=through.leases,
            )

            def on_step(info: StepInfo) -> None:
                steps = len(self.sigmas) - 1
                info = replace(info, index=info.index + leg.first_step, steps=steps)
                hooks.step(told, info)
                watcher.step(info)

            conditioning = hooks.conditioning(told, conditioning)
            base = self._prompt_denoiser(model, lease, module, conditioning)
            denoiser = self._masked(hooks, hooks.denoiser(told, base))
            options = _options(request, settings, spec, one.noise_levels(bundle.denoiser))
            tiled = _edited(module, tiling=context.tiling)
            with torch.inference_mode(), tiled, through.around(module):
                latents = self.function(denoiser, x, leg.sigmas, noise, on_step, options)
                return hooks.latents(told, latents) if self.is_last else latents

    def _units(self, stack: ExitStack, rows: int, x: Tensor) -> list[PlacedUnit]:
        """Return the ControlNet units that act here, leased until `stack` is closed."""
        if not self.control:
            return []
        bundle = self.ready.bundle
        needed = self._needed(rows, x)
        return self.control.placed(self.one, bundle, stack, needed)

    def _needed(self, rows: int, x: Tensor, factor: float = START_DENOISER) -> int:
        denoiser = self.ready.bundle.denoiser
        tokens = max(denoiser.usual_tokens, self.ready.conditioning.sequence_tokens)
        referred = 0 if self.beside is None else self.beside.referred
        return denoiser.working_bytes(
            rows, x.shape[-2], x.shape[-1], tokens, factor, referred=referred
        )

    def _lease(self, rows: int, x: Tensor, units: Sequence[PlacedUnit]) -> Lease:
        """Return the lease for a forward of `rows` rows; cond and uncond may have to go apart."""
        memory, denoiser = self.context.memory, self.ready.bundle.denoiser
        learns = memory.learning.key(denoiser.architecture, "denoise")
        factor = memory.learning.factor(learns)
        latents = x.shape[-2] * x.shape[-1]

        def needed(count: int) -> int:
            own = self._needed(count, x, factor)
            said = sum(said_bytes(unit.network, count, latents, denoiser.dtype) for unit in units)
            return own + said

        return memory.lease(
            denoiser.component,
            working_bytes=needed(rows),
            split_bytes=needed(len(x)) if rows > len(x) else None,
            # What units add would count as the denoiser's own.
            learns=None if units else learns,
        )

    def _set_networks(self, sigma: float) -> bool:
        """Give networks the weight that they have at `sigma`; say whether it is another."""
        if self.ready.networks is None:
            return False
        done = sum(one > sigma * (1 + 1e-6) for one in self.sigmas)
        return self.ready.networks.set(done, len(self.sigmas) - 1)

    def _masked(self, hooks: Hooks, denoiser: Guided) -> Guided:
        latents, mask = self.start.latents, self.start.mask
        if latents is None or mask is None:
            return denoiser

        def blend(drawn: Tensor, sigma: float) -> Tensor:
            return hooks.blended(MaskBlend(drawn=drawn, source=latents, mask=mask, sigma=sigma))

        return MaskedDenoiser(denoiser, blend)

    def _prompt_denoiser(
        self,
        model: GuardedDenoiser,
        lease: Lease,
        module: nn.Module,
        conditioning: BatchConditioning,
    ) -> PromptDenoiser:
        settings = self.context.settings
        asked, calls_per_step = self.context.request.s_min_uncond, self.one.calls_per_step

        def forward(x: Tensor, sigma: float, cond: Conditioning) -> Tensor:
            if self._set_networks(sigma):
                lease.replan()
            return model.predict(module, x, sigma, cond)

        denoiser = PromptDenoiser(
            forward,
            conditioning,
            cfg_scale=self.one.cfg_scale,
            skips=UncondSkips(
                calls=self.one.planned_steps * calls_per_step,
                below_sigma=settings.s_min_uncond if asked is None else asked,
                every_call=settings.s_min_uncond_all,
                early_share=settings.skip_early_cond,
            ),
            dtype=model.dtype,
            batched=settings.batch_cond_uncond,
            fit_uncond=settings.pad_cond_uncond_v0,
            network=module,
            beside=self.beside,
        )
        denoiser.call = self.leg.first_step * calls_per_step
        return denoiser


def image_noise(
    context: RunContext, bundle: ModelBundle, batch: int, size: tuple[int, int]
) -> ImageNoise:
    """Return fresh noise of a batch's seeds for pictures of (height, width) pixels."""
    request, settings = context.request, context.settings
    latent = bundle.latent_format
    height, width = (side // latent.downscale for side in size)
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


def _edited(module: nn.Module, *, tiling: bool) -> AbstractContextManager[None]:
    return circular_padding(module) if tiling else nullcontext()


def _least_positive(sigmas: tuple[float, ...]) -> float:
    return min(sigma for sigma in sigmas if sigma > 0)


def _options(
    request: GenerationRequest, settings: Settings, spec: SamplerSpec, model: ModelSigmas
) -> SamplerOptions:
    """Merge the request's sampler parameters with the settings'.

    As in A1111 the request's eta beats the setting; of the others, a setting that was changed from
    its default beats the request's value.
    """

    def pick(asked: float | None, key: str) -> float:
        setting = float(getattr(settings, key))
        is_default = setting == OPTIONS[key].default
        return asked if asked is not None and is_default else setting

    eta = float(getattr(settings, spec.eta_setting))
    if spec.default_eta is not None and eta == OPTIONS[spec.eta_setting].default:
        eta = spec.default_eta
    s_tmax = pick(request.s_tmax, "s_tmax")
    return SamplerOptions(
        eta=request.eta if request.eta is not None else eta,
        s_churn=pick(request.s_churn, "s_churn"),
        s_tmin=pick(request.s_tmin, "s_tmin"),
        s_tmax=s_tmax or math.inf,
        s_noise=pick(request.s_noise, "s_noise"),
        uni_pc_order=settings.uni_pc_order,
        uni_pc_variant=settings.uni_pc_variant,
        uni_pc_lower_order_final=settings.uni_pc_lower_order_final,
        model=model,
    )
