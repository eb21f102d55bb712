"""The denoiser under a lease, kept going when memory runs out: the same step again, leaner."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sdforge.memory.ladder import Rung, size_hint, weight_rungs
from sdforge.memory.lease import Lease
from sdforge.memory.manager import MemoryManager
from sdforge.models.denoiser import Conditioning, DenoiserModel
from sdforge.pipeline.controlled import Control


class GuardedDenoiser:
    """`DenoiserModel.predict` that survives out-of-memory errors.

    Rows of a batch do not depend on each other, so they may run in several passes.
    """

    def __init__(
        self,
        model: DenoiserModel,
        memory: MemoryManager,
        lease: Lease,
        *,
        size: tuple[int, int],
        rows: int,
        control: Control | None = None,
        beside: Sequence[Lease] = (),
    ) -> None:
        """Guard the forwards of one batch.

        Args:
            model: what predicts.
            memory: the manager.
            lease: on the model's component, held while `predict` is called.
            size: width and height of the pictures, for messages.
            rows: in a full batch, cond and uncond counted apart.
            control: what steers the network, None for nothing.
            beside: leases on networks that run inside of it.
        """
        self._model = model
        self._memory = memory
        self._lease = lease
        self._size = size
        self._rows = rows
        self._rows_at_once = rows if lease.cond_batching else -(-rows // 2)
        self._failed = False
        self._control = control
        self._beside = tuple(beside)
        self._rungs = [
            *weight_rungs(memory, lease),
            Rung("cond and uncond apart", lambda: self._split(-(-self._rows_at_once // 2))),
            Rung("one by one", lambda: self._split(1)),
        ]

    @property
    def dtype(self) -> torch.dtype:
        """Type that the network computes in."""
        return self._model.dtype

    def predict(
        self, module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the guess of clean latents, see `DenoiserModel.predict`."""

        def attempt() -> torch.Tensor:
            if self._failed:
                self._lease.ran_out = True
                self._lease.recover()
                if self._control is not None:
                    self._control.recover()
                for other in self._beside:
                    other.recover()
                self._failed = False
            self._failed = True
            result = self._predict(module, x, sigma, conditioning)
            self._failed = False
            return result

        return self._memory.ladder.run(
            "denoiser", attempt, self._rungs, self._hint, learns=self._lease.learns
        )

    def _predict(
        self, module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
    ) -> torch.Tensor:
        at_once = self._rows_at_once
        if len(x) <= at_once:
            return self._forward(module, x, sigma, conditioning)
        parts = [
            self._forward(
                module,
                x[start : start + at_once],
                sigma,
                conditioning.rows(start, start + at_once),
            )
            for start in range(0, len(x), at_once)
        ]
        return torch.cat(parts)

    def _forward(
        self, module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
    ) -> torch.Tensor:
        if self._control is not None:
            module = self._control.around(module, sigma, conditioning.against)
        return self._model.predict(module, x, sigma, conditioning)

    def _split(self, rows: int) -> str | None:
        if rows >= self._rows_at_once:
            return None
        self._rows_at_once = rows
        return f"{rows} of {self._rows} rows at once"

    def _hint(self) -> str:
        return size_hint(self._lease.plan, *self._size)
