"""Noise levels of flow models (SD3, Flux, Z-Image): latents are (1 − sigma)·clean + sigma·noise.

Sigma goes from 1, pure noise, to 0. A shift above 1 spends more of the steps on much noise, which
large pictures need (Esser et al. 2024, arXiv:2403.03206, section 5.3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_TIMESTEPS = 1000
# Flux: the logarithm of the shift is linear in the number of image tokens (Black Forest Labs).
_FEWEST_TOKENS, _MOST_TOKENS = 256, 4096
_BASE_SHIFT, _LARGEST_SHIFT = 0.5, 1.15
# Flux.2, fitted by its authors.
_SLOPE_200, _START_200 = 0.00016927, 0.45666666
_SLOPE_10, _START_10 = 8.73809524e-05, 1.89833333
_LARGE_TOKENS = 4300


class FlowSigmas:
    """A flow model's sigmas for schedules: 1000 of them, rising, the largest 1.

    Timesteps count from 0, so that `sigmas[t]` and `t_to_sigma(t)` are the same.
    """

    is_flow = True

    def __init__(self, shift: float = 1.0) -> None:
        """Take the shift: 1 for none, 3 for SD3, `flux_shift(tokens)` for Flux.1."""
        if not (math.isfinite(shift) and shift > 0):
            raise ValueError(f"the shift of a flow's sigmas must be above 0, not {shift!r}")
        self._shift = shift
        self.sigmas: Sequence[float] = tuple(self.t_to_sigma(t) for t in range(_TIMESTEPS))

    @property
    def sigma_min(self) -> float:
        """The smallest one above 0."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> float:
        """Pure noise: 1."""
        return self.sigmas[-1]

    def sigma_to_t(self, sigma: float) -> float:
        """Return the timestep of a sigma, with fractions; ends are clamped."""
        share = sigma / (self._shift - (self._shift - 1) * sigma)
        return min(max(share * _TIMESTEPS - 1, 0.0), _TIMESTEPS - 1.0)

    def t_to_sigma(self, t: float) -> float:
        """Return the sigma of a timestep with fractions, the inverse of `sigma_to_t`."""
        share = (min(max(t, 0.0), _TIMESTEPS - 1.0) + 1) / _TIMESTEPS
        return self._shift * share / (1 + (self._shift - 1) * share)


def flux_shift(tokens: int) -> float:
    """Return Flux.1's shift for a picture of that many tokens (width/16 · height/16)."""
    slope = (_LARGEST_SHIFT - _BASE_SHIFT) / (_MOST_TOKENS - _FEWEST_TOKENS)
    return math.exp(_BASE_SHIFT + slope * (tokens - _FEWEST_TOKENS))


def flux2_shift(tokens: int, steps: int) -> float:
    """Return Flux.2's shift for a picture of that many tokens that is drawn in so many steps.

    The logarithm of the shift is linear in the number of tokens, for 200 steps and for 10, and in
    between linear in the steps; of large pictures it is that for 200 (Black Forest Labs'
    `compute_empirical_mu`).
    """
    slow = _SLOPE_200 * tokens + _START_200
    if tokens > _LARGE_TOKENS:
        return math.exp(slow)
    fast = _SLOPE_10 * tokens + _START_10
    return math.exp(slow + (slow - fast) / (200 - 10) * (steps - 200))
