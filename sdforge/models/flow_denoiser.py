"""Denoisers of flow models: the network says which way the noise lies.

Latents are `(1 − sigma)·clean + sigma·noise`, and the network answers `noise − clean` (rectified
flow: Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206). What differs between
families is how the network is called.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sdforge.memory.component import Component
from sdforge.models.denoiser import Conditioning, DenoiserModel

_TIMESTEPS = 1000

# (network, noisy latents in its type, sigma, conditioning where the latents are) → its answer.
FlowCall = Callable[[nn.Module, torch.Tensor, float, Conditioning], torch.Tensor]


# Shifts of sigmas that follow from the picture's size, as in Flux.1 dev, and from the number of
# steps as well, as in Flux.2.
BY_SIZE, BY_SIZE_AND_STEPS = "by size", "by size and steps"


class FlowDenoiser(DenoiserModel):
    """The denoiser of a flow model's bundle."""

    kind = "dit"

    def __init__(
        self,
        component: Component,
        call: FlowCall,
        *,
        architecture: str,
        shift: float | str = 1.0,
        usual_tokens: int = 256,
        sees: str = "",
    ) -> None:
        """Take the network and how it is called.

        Args:
            component: the network.
            call: runs it.
            architecture: the name of its trace in `memory/activations.json`.
            shift: of sigmas, or what it follows from: `BY_SIZE`, `BY_SIZE_AND_STEPS`.
            usual_tokens: of a prompt, to estimate activations by.
            sees: what it is shown beside the noisy latents, see `DenoiserModel`.
        """
        levels = tuple((step + 1) / _TIMESTEPS for step in range(_TIMESTEPS))
        super().__init__(component, levels, prediction="flow", architecture=architecture, sees=sees)
        self.shift = shift
        self._call = call
        self.usual_tokens = usual_tokens

    @property
    def is_flow(self) -> bool:
        """True: noise takes the place of the clean latents."""
        return True

    def sigma_to_t(self, sigma: float) -> float:
        """Return the timestep of a sigma without shift, counted from 0; ends are clamped."""
        return min(max(sigma * _TIMESTEPS - 1, 0.0), _TIMESTEPS - 1.0)

    def t_to_sigma(self, t: float) -> float:
        """Return the sigma of a timestep without shift."""
        return (min(max(t, 0.0), _TIMESTEPS - 1.0) + 1) / _TIMESTEPS

    @torch.inference_mode()
    def predict(
        self, module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the guess of clean latents, in the type of `x`; see `DenoiserModel.predict`."""
        placed = conditioning.to(x.device, self.dtype)
        velocity = self._call(module, x.to(self.dtype), sigma, placed)
        return x - velocity.to(x.dtype) * sigma
