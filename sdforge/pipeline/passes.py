"""The passes of a batch, as data: txt2img and img2img have one, hires fix has a second.

Where noise is found in a picture, a pass that walks up comes first (`inversion.py`).

A pass is one walk of a sampler down its sigmas, from noise or from latents at a strength; so the
three kinds of job are the same code. `denoise.py` runs passes, `img2img.py` and `hires.py` make
what they start with. Rules for steps are A1111's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sdforge.core.extension import Inversion
from sdforge.core.request import DEFAULT_DISTILLED_CFG_SCALE, GenerationRequest
from sdforge.core.settings import Settings
from sdforge.models.denoiser import DenoiserModel
from sdforge.pipeline.noise_levels import noise_levels
from sdforge.prompt.schedule import Timeline
from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.registry import SAMPLERS, SamplerSpec
from sdforge.sampling.sigmas import make_sigmas

Seen = Callable[[], tuple[torch.Tensor, "torch.Tensor | None"]]

BASE, HIRES, INVERSION = "base", "hires", "inversion"
# A1111 never starts from noise alone in img2img.
_MOST_STRENGTH = 0.999
# Doing all steps at a strength means a schedule of so many times more; this bounds it.
_LEAST_STRENGTH = 0.001


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One walk of a sampler.

    Attributes:
        name: "base", "hires" or "inversion".
        checkpoint: title of what draws it.
        modules: files that bring its VAE and text encoders; None for those of the settings.
        width: in pixels.
        height: in pixels.
        sampler: registered name.
        schedule: registered label.
        steps: as asked.
        cfg_scale: strength of guidance.
        distilled_cfg_scale: what models are told that guide themselves (Flux dev).
        strength: how far it goes from the latents that it starts with; None starts from noise.
        all_steps: walk `steps` steps at any strength, else only the share that the strength leaves.
        refiner: title of the checkpoint that takes over on the way, or "".
        refiner_switch_at: share of the way at which it does.
        first_pass_calls: in a second pass the denoiser's calls of the first, for the prompts' time.
        steps_before: of earlier passes in the same batch, for progress.
        steps_after: of later ones.
        inversion: what an "inversion" is asked for.
    """

    name: str = BASE
    checkpoint: str
    modules: tuple[str, ...] | None = None
    width: int
    height: int
    sampler: str
    schedule: str
    steps: int
    cfg_scale: float
    distilled_cfg_scale: float
    strength: float | None = None
    all_steps: bool = False
    refiner: str = ""
    refiner_switch_at: float = 0.0
    first_pass_calls: int | None = None
    steps_before: int = 0
    steps_after: int = 0
    inversion: Inversion | None = None

    @property
    def calls_per_step(self) -> int:
        """Calls of the denoiser that a step counts for: two where the order is 2."""
        return 2 if SAMPLERS.get(self.sampler).second_order else 1

    @property
    def planned_steps(self) -> int:
        """Steps that will be walked; some schedules have a few more."""
        return self._cut()[1]

    def timeline(self, *, old: bool) -> Timeline:
        """Return the prompts' time: all steps as asked, also where a strength leaves out some."""
        return Timeline(self.steps * self.calls_per_step, self.first_pass_calls, old)

    def noise_levels(self, model: DenoiserModel) -> ModelSigmas:
        """Return the model's noise levels for pictures of this pass's size."""
        return noise_levels(model, self.width, self.height, self._cut()[0])

    def sigmas(self, model: DenoiserModel, settings: Settings) -> tuple[float, ...]:
        """Return the sigmas to walk; fewer than two when there is nothing to do."""
        spec = SAMPLERS.get(self.sampler)
        steps, walked = self._cut()
        if not walked:
            return ()
        sigmas = make_sigmas(
            self.schedule,
            steps,
            self.noise_levels(model),
            sigma_min=settings.sigma_min,
            sigma_max=settings.sigma_max,
            rho=settings.rho,
            discard_penultimate=(
                spec.discard_penultimate or settings.always_discard_next_to_last_sigma
            ),
            timesteps=spec.timesteps,
            skip_type=settings.uni_pc_skip_type if spec.skip_types else "",
            is_sdxl=model.architecture.startswith("sdxl"),
            beta_shape=(settings.beta_dist_alpha, settings.beta_dist_beta),
        )
        if self.strength is None:
            return sigmas
        # Timesteps are counted from the end, since there can be more of them than steps.
        first = len(sigmas) - 1 - walked if spec.timesteps else steps - walked
        return sigmas[min(max(first, 0), len(sigmas) - 2) :]

    def _cut(self) -> tuple[int, int]:
        """Return (steps of the whole schedule, steps walked at its end)."""
        if self.strength is None:
            return self.steps, self.steps
        strength = min(self.strength, _MOST_STRENGTH)
        if not self.all_steps:
            return self.steps, int(strength * self.steps) + 1
        if strength <= 0:
            return self.steps, 0
        return int(self.steps / max(strength, _LEAST_STRENGTH)), self.steps


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What a pass starts with beside its noise.

    Attributes:
        latents: (batch, channels, height/8, width/8); None for noise alone.
        noise_scale: of the first noise.
        noise: to begin with in place of that of the seeds, in the shape of `latents`.
        mask: (batch or 1, 1, height/8, width/8), 1 where to repaint; None for everywhere.
        seen: returns the pictures (batch or 1, 3, height, width) from 0 to 1 and their masks, for
            networks that see them; None where there are none.
    """

    latents: torch.Tensor | None = None
    noise_scale: float = 1.0
    noise: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    seen: Seen | None = None

    def noised(
        self,
        noise: torch.Tensor,
        sigma: float,
        spec: SamplerSpec,
        settings: Settings,
        *,
        is_flow: bool = False,
    ) -> torch.Tensor:
        """Return the latents with noise of `sigma`, or noise alone.

        In flow models noise replaces latents instead of being added to them.
        """
        if self.latents is None:
            # The exact deviation of noised latents of variance 1, or what A1111 takes for it.
            is_exact = not is_flow and (spec.timesteps or settings.sgm_noise_multiplier)
            return noise * ((1.0 + sigma**2) ** 0.5 if is_exact else sigma)
        noise = (noise if self.noise is None else self.noise) * self.noise_scale
        kept = 1.0 - sigma if is_flow else 1.0
        return self.latents * kept + noise * (sigma + settings.img2img_extra_noise)


def plan_passes(
    request: GenerationRequest, settings: Settings, inversion: Inversion | None = None
) -> tuple[Pass, ...]:
    """Return the passes of each batch of a resolved request, first one that finds its noise."""
    passes = _drawing_passes(request, settings)
    if inversion is None or passes[0].name != BASE:
        return passes
    up = replace(
        passes[0],
        name=INVERSION,
        sampler="Euler",
        schedule="Uniform",
        steps=inversion.steps,
        cfg_scale=inversion.cfg_scale,
        strength=None,
        refiner="",
        steps_after=sum(one.planned_steps for one in passes),
        inversion=inversion,
    )
    later = (replace(one, steps_before=one.steps_before + up.steps) for one in passes)
    return (up, *later)


def _drawing_passes(request: GenerationRequest, settings: Settings) -> tuple[Pass, ...]:
    if request.width is None or request.height is None or request.cfg_scale is None:
        raise ValueError("the request was not resolved: its size or CFG scale is open")
    # Frames of live mode leave it open: what draws them is not told it.
    distilled = request.distilled_cfg_scale
    distilled = DEFAULT_DISTILLED_CFG_SCALE if distilled is None else distilled
    refined = settings.hires_fix_refiner_pass
    in_base = not request.hires or refined != "second pass"
    base = Pass(
        checkpoint=request.checkpoint,
        width=request.width,
        height=request.height,
        sampler=request.sampler,
        schedule=request.schedule,
        steps=request.steps,
        cfg_scale=request.cfg_scale,
        distilled_cfg_scale=distilled,
        strength=request.denoising_strength if request.init_images else None,
        all_steps=settings.img2img_fix_steps,
        refiner=request.refiner if in_base else "",
        refiner_switch_at=request.refiner_switch_at or 0.0,
    )
    if not request.hires:
        return (base,)
    width, height = request.final_size
    hires = replace(
        base,
        name=HIRES,
        checkpoint=request.hires_checkpoint or request.checkpoint,
        modules=request.hires_modules,
        width=width,
        height=height,
        sampler=request.hires_sampler or request.sampler,
        schedule=request.hires_schedule or request.schedule,
        steps=request.hires_steps or request.steps,
        cfg_scale=request.hires_cfg_scale or request.cfg_scale,
        distilled_cfg_scale=request.hires_distilled_cfg_scale or distilled,
        strength=request.denoising_strength,
        all_steps=True,
        refiner=request.refiner if refined != "first pass" else "",
        first_pass_calls=base.steps * base.calls_per_step,
    )
    if request.first_picture is not None:
        return (hires,)
    return (
        replace(base, steps_after=hires.planned_steps),
        replace(hires, steps_before=base.planned_steps),
    )
