"""Batch normalisation by what was learnt, as detectors and face finders have it in their files."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LearntNorm(nn.Module):
    """Parameters under the names of torch's `BatchNorm2d`, which a file need not count batches for.

    Its statistics are parameters too, so that they travel as weights do.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        """Take the number of channels, and what is added to the variance."""
        super().__init__()
        self._epsilon = epsilon
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_parameter(name, nn.Parameter(torch.empty(width)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, height, width) normalised."""
        return F.batch_norm(
            x,
            self.get_parameter("running_mean"),
            self.get_parameter("running_var"),
            self.get_parameter("weight"),
            self.get_parameter("bias"),
            eps=self._epsilon,
        )
