"""The refiner: another checkpoint that walks the last sigmas of a pass.

A pass becomes legs, one for each checkpoint; latents and noise go on from leg to leg, samplers that
remember earlier steps start anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.bundle import ModelBundle
from sdforge.pipeline.passes import Pass
from sdforge.sampling.model_sigmas import ModelSigmas


@dataclass(frozen=True)
class Leg:
    """The part of a pass that one checkpoint draws; `first_step` is counted in the pass."""

    checkpoint: str
    sigmas: tuple[float, ...]
    first_step: int = 0


def legs(one: Pass, sigmas: tuple[float, ...], model: ModelSigmas, *, by_steps: bool) -> list[Leg]:
    """Return the legs of a pass; `by_steps` as the setting `refiner_switch_by_sample_steps`."""
    if not one.refiner or one.refiner == one.checkpoint:
        return [Leg(one.checkpoint, sigmas)]
    switch = _switch_step(one.refiner_switch_at, sigmas, model, by_steps=by_steps)
    found = [Leg(one.checkpoint, sigmas[: switch + 1]), Leg(one.refiner, sigmas[switch:], switch)]
    return [leg for leg in found if len(leg.sigmas) > 1]


def _switch_step(
    switch_at: float, sigmas: Sequence[float], model: ModelSigmas, *, by_steps: bool
) -> int:
    """Return the first step that the refiner does.

    Forge counts steps; A1111 looks how far down the model's timesteps the noise is.
    """
    steps = len(sigmas) - 1
    last = len(model.sigmas) - 1
    for step, sigma in enumerate(sigmas[:-1]):
        way = step / steps if by_steps else (last - round(model.sigma_to_t(sigma))) / (last + 1)
        if way >= switch_at:
            return step
    return steps


def check_same_latents(first: ModelBundle, second: ModelBundle) -> None:
    """Raise `UnsupportedCheckpoint` unless one may go on with the other's latents."""
    if not has_same_latents(first, second):
        raise UnsupportedCheckpoint(
            f"refiner_checkpoint: {second.info.title} cannot go on with the latents of "
            f"{first.info.title}; take one of the same family"
        )


def has_same_latents(first: ModelBundle, second: ModelBundle) -> bool:
    """Whether latents mean the same to both checkpoints."""
    one, other = first.latent_format, second.latent_format
    return (one.channels, one.downscale, one.scale, one.shift) == (
        other.channels,
        other.downscale,
        other.scale,
        other.shift,
    )
