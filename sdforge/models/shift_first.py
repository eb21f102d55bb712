"""The last modulation of a diffusion transformer, in the order in which its authors store it.

diffusers keeps the scale's rows before the shift's and its converters swap them; here files stay as
they are and the rows are read the other way round.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ShiftFirst(nn.Module):
    """diffusers' `AdaLayerNormContinuous` whose linear layer gives shift and then scale."""

    def __init__(self, source: Any) -> None:
        """Take over the layers of `source`."""
        super().__init__()
        self.silu: nn.Module = source.silu
        self.linear: nn.Module = source.linear
        self.norm: nn.Module = source.norm

    def forward(self, states: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return the states (rows, tokens, width), normalised and modulated by (rows, width)."""
        shift, scale = self.linear(self.silu(condition).to(states.dtype)).chunk(2, dim=1)
        modulated: torch.Tensor = self.norm(states) * (1 + scale)[:, None] + shift[:, None]
        return modulated
