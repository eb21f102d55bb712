"""Muon for hidden matrices and AdamW for the rest, or AdamW for everything."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

SKIPPED = ("conv_in", "conv_out", "_embedding.weight")
"""First and last layers and look-up tables are no hidden matrices, which Muon is meant for."""


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """Nearest matrix with all singular values near one (quintic Newton-Schulz iteration)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (torch.linalg.vector_norm(x) + 1e-7)
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    result: torch.Tensor = x if wide else x.T
    return result


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, so that every direction learns equally fast."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight.grad)
                buffer = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(buffer, group["momentum"])
                shape = update.shape
                update = orthogonal(update.reshape(shape[0], -1)).reshape(shape)
                rows, columns = shape[0], weight.numel() // shape[0]
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def make_optimisers(
    network: nn.Module, kind: str, matrix_rate: float, rate: float
) -> list[torch.optim.Optimizer]:
    """Optimisers for a network; each group remembers its full rate as `peak`."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, weight in network.named_parameters():
        if not weight.requires_grad:
            continue
        hidden = weight.ndim >= 2 and not any(part in name for part in SKIPPED)
        (matrices if hidden and kind == "muon" else rest).append(weight)
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    ]
    if matrices:
        made.append(Muon(matrices, lr=matrix_rate))
    for optimiser in made:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return made


def set_rate(optimisers: list[torch.optim.Optimizer], factor: float) -> None:
    """Scale every rate to a part of its peak."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor
