"""A loaded checkpoint: its networks as components, and the parts that put them to work.

Made by `loader.ModelProvider`; the pipeline reads it and never changes it. Once the store has
evicted the checkpoint its components are released and every use raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdforge.core.result import ModelIdentity
from sdforge.memory.component import Component

if TYPE_CHECKING:
    from sdforge.models.denoiser import DenoiserModel
    from sdforge.models.library import CheckpointInfo
    from sdforge.models.text_encoder import PromptText
    from sdforge.models.vae import Vae

_HASH_PATIENCE_SECONDS = 0.5

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
    text: PromptText
    vae: Vae
    denoiser: DenoiserModel


@dataclass(kw_only=True)
class ModelBundle:
    """A loaded checkpoint; `components` by role, `key` is the store's."""

    info: CheckpointInfo
    family: str
    components: Mapping[str, Component]
    latent_format: LatentFormat
    text: PromptText
    vae: Vae
    denoiser: DenoiserModel
    identify: Callable[[], ModelIdentity]
    key: str = ""

    @property
    def identity(self) -> ModelIdentity:
        """Names of the weights, and their hashes as far as they are known by now."""
        return self.identify()


class LazyIdentity:
    """Names of a bundle's weights at once, hashes when they are there.

    A file is hashed once in its life, beside its first load. No picture waits for that but for the
    moment in which a small file, or the rest of a large one, gets done.
    """

    def __init__(
        self, future: Future[ModelIdentity], info: CheckpointInfo, vae: Path | None
    ) -> None:
        """Take the identity that is being found out, and what is known without it."""
        self._future = future
        self._plain = ModelIdentity(
            title=info.title,
            name=info.name,
            sha256=info.sha256,
            vae_name=vae.name if vae else None,
        )
        self._patience = _HASH_PATIENCE_SECONDS

    def __call__(self) -> ModelIdentity:
        """Return what is known; the first call may take half a second."""
        patience, self._patience = self._patience, 0.0
        try:
            return self._future.result(patience)
        except TimeoutError:
            return self._plain
