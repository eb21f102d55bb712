"""A loaded checkpoint: its networks as components, and the parts that put them to work.

Made by `loader.ModelProvider`; the pipeline reads it and never changes it. After the provider
switched to another checkpoint the components are released and every use raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdforge.core.result import ModelIdentity
from sdforge.memory.component import Component

if TYPE_CHECKING:
    from sdforge.models.denoiser import DenoiserModel
    from sdforge.models.library import CheckpointInfo
    from sdforge.models.text_encoder import TextEncoder
    from sdforge.models.vae import Vae

Rows = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, kw_only=True)
class LatentFormat:
    """What latents of a family look like.

    A VAE's own latents are `latents / scale + shift`. `preview_matrix` (one row of red, green, blue
    per channel) and `preview_bias` turn latents into colours from 0 to 1 without the VAE.
    """

    channels: int
    downscale: int
    scale: float
    shift: float = 0.0
    preview_matrix: Rows = ()
    preview_bias: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def with_preview(self, matrix: Rows, bias: tuple[float, float, float]) -> LatentFormat:
        """Return the same format with other preview colours."""
        return replace(self, preview_matrix=matrix, preview_bias=bias)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a family makes of its loaded networks."""

    latent_format: LatentFormat
    text: TextEncoder
    vae: Vae
    denoiser: DenoiserModel


@dataclass(kw_only=True)
class ModelBundle:
    """A loaded checkpoint; `components` by role."""

    info: CheckpointInfo
    family: str
    components: Mapping[str, Component]
    latent_format: LatentFormat
    text: TextEncoder
    vae: Vae
    denoiser: DenoiserModel
    identify: Callable[[], ModelIdentity]

    @property
    def identity(self) -> ModelIdentity:
        """Names and hashes of the weights.

        Hashing starts with the loading and runs beside it; the first call waits for its end.
        """
        return self.identify()
