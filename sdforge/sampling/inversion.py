"""The way up: from clean latents to the noise that a sampler would have drawn them from.

Without new noise, sampling follows dx/dsigma = (x − denoised) / sigma down to 0 (Song et al. 2021,
arXiv:2011.13456, equation 13, in Karras' terms). The same line can be walked the other way: DDIM
inversion (Song et al. 2021, arXiv:2010.02502, section 4.3), here in steps of Euler's method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from sdforge.sampling.sampler import Denoiser, StepInfo


def invert(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    on_step: Callable[[StepInfo], None],
    *,
    at_own_level: bool = False,
) -> Tensor:
    """Walk from `sigmas[0]` up to the last sigma and return the latents there.

    Args:
        denoiser: guess of the clean latents.
        x: clean latents, (batch, channels, height/8, width/8); kept as is.
        sigmas: rising; the first one may be 0.
        on_step: called after every step; what it raises ends the walk.
        at_own_level: take the slope for the noise that is in `x`. Else it is taken for that of the
            step's end, which is where the way down will look. At 0 there is no slope: the first
            step always looks at its end.
    """
    steps = len(sigmas) - 1
    for index in range(steps):
        sigma, sigma_next = sigmas[index], sigmas[index + 1]
        level = sigma if at_own_level and sigma > 0 else sigma_next
        denoised = denoiser(x, level)
        x = x + (x - denoised) * ((sigma_next - sigma) / level)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return x


def noise_of(x: Tensor, sigma: float, *, by_deviation: bool) -> Tensor:
    """Return what was found at the end of the way up as noise of about variance 1.

    Args:
        x: latents with noise of `sigma`.
        sigma: their noise.
        by_deviation: each picture is divided by its own deviation, else all by `sigma`.
    """
    if not by_deviation:
        return x / sigma
    return x / x.std(dim=tuple(range(1, x.ndim)), keepdim=True).clamp_min(1e-6)


def mixed_noise(found: Tensor, seeded: Tensor, randomness: float) -> Tensor:
    """Return noise of which a share is the seed's, at unchanged variance."""
    kept = 1.0 - randomness
    return (found * kept + seeded * randomness) / (kept**2 + randomness**2) ** 0.5
