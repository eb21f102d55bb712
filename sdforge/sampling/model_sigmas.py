"""What schedules and samplers may ask of a model: its noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class ModelSigmas(Protocol):
    """What a schedule may ask of the model: its sigmas, rising, and their timesteps."""

    @property
    def sigmas(self) -> Sequence[float]:
        """All of them."""

    @property
    def sigma_min(self) -> float:
        """The smallest."""

    @property
    def sigma_max(self) -> float:
        """The largest."""

    @property
    def is_flow(self) -> bool:
        """Whether latents are (1 − sigma)·clean + sigma·noise (`flow_sigmas.py`)."""

    def sigma_to_t(self, sigma: float) -> float:
        """Return the timestep of a sigma, with fractions."""

    def t_to_sigma(self, t: float) -> float:
        """Return the sigma of a timestep with fractions."""
