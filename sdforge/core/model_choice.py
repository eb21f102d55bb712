"""Which model: a checkpoint, and what is chosen beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class ModelChoice:
    """What has to be in memory for a pass.

    `checkpoint` is a title, `vae` the setting sd_vae and `storage` forge_unet_storage_dtype; empty
    ones leave that to the settings in force.
    """

    checkpoint: str
    vae: str = ""
    storage: str = ""
