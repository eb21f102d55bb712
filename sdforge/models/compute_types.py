"""In which torch types networks compute: `precision.py`'s names made into types.

How weights are kept, which may take fewer bits, is `quant.py`'s matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sdforge.core.device import DeviceInfo
from sdforge.models.precision import precision_names


@dataclass(frozen=True)
class Precision:
    """In which type of numbers each kind of network computes."""

    denoiser: torch.dtype
    text_encoder: torch.dtype
    vae: torch.dtype

    def of(self, role: str) -> torch.dtype:
        """Return the type for a component's role."""
        if role == "denoiser":
            return self.denoiser
        return self.vae if role == "vae" else self.text_encoder


def choose_precision(device: DeviceInfo, flags: Mapping[str, object] | None = None) -> Precision:
    """Return the types for a device; see `precision.precision_names`."""
    names = precision_names(device, flags)
    return Precision(**{role: getattr(torch, name) for role, name in names.items()})
