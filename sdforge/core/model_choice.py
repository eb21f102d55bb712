"""Which model: a checkpoint, and what is chosen beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelChoice:
    """What has to be in memory for a pass.

    `checkpoint` is a title, `vae` the setting sd_vae and `storage` forge_unet_storage_dtype; empty
    ones leave that to the settings in force. `modules` are names of files that bring a VAE and text
    encoders, () for the checkpoint's own and None for those of the settings.
    """

    checkpoint: str
    vae: str = ""
    storage: str = ""
    modules: tuple[str, ...] | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelChoice:
        """Read what `dataclasses.asdict` made and JSON kept."""
        modules = values.get("modules")
        return cls(**{**values, "modules": None if modules is None else tuple(modules)})
