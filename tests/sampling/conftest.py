"""Stable Diffusion's sigmas without a model, and the peer that samplers are compared with."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch


class StableDiffusionSigmas:
    """The 1000 sigmas of Stable Diffusion's training (betas are squares of a ramp)."""

    def __init__(self) -> None:
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        kept = torch.tensor(np.cumprod(1 - betas), dtype=torch.float32)
        self.sigmas: tuple[float, ...] = tuple(((1 - kept) / kept).sqrt().tolist())
        self._logs = [math.log(sigma) for sigma in self.sigmas]

    is_flow = False

    @property
    def sigma_min(self) -> float:
        return min(self.sigmas)

    @property
    def sigma_max(self) -> float:
        return max(self.sigmas)

    def sigma_to_t(self, sigma: float) -> float:
        low = min(max(bisect_right(self.sigmas, sigma) - 1, 0), 998)
        part = (math.log(sigma) - self._logs[low]) / (self._logs[low + 1] - self._logs[low])
        return low + min(max(part, 0.0), 1.0)

    def t_to_sigma(self, t: float) -> float:
        return float(np.exp(np.interp(t, np.arange(1000), self._logs)))


@pytest.fixture(scope="session")
def model() -> StableDiffusionSigmas:
    return StableDiffusionSigmas()


@pytest.fixture(scope="session")
def k_diffusion() -> Iterator[ModuleType]:
    """k-diffusion's `sampling` and `external` modules, as attributes of one module.

    Only these two are loaded: the package's `__init__` needs libraries that we have no use for.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.origin is None:
        pytest.skip("k-diffusion is not installed (pip install --no-deps k-diffusion==0.1.1)")
    for needed in ("torchsde", "torchdiffeq", "scipy"):
        pytest.importorskip(needed, reason=f"k-diffusion needs {needed}")
    package = ModuleType("k_diffusion")
    package.__path__ = [str(Path(spec.origin).parent)]
    utils = ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # type: ignore[attr-defined]
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
    try:
        for name in ("sampling", "external"):
            importlib.import_module(f"k_diffusion.{name}")
        yield package
    finally:
        for name in [key for key in sys.modules if key.partition(".")[0] == "k_diffusion"]:
            del sys.modules[name]
