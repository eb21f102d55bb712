"""What there is to choose from, as axes need it: one engine's models, styles and extensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sdforge.core.extension import Extension
from sdforge.core.registry import Registry
from sdforge.engine import Engine
from sdforge.postprocess.upscalers import LATENT_MODES, picture_upscaler_names

if TYPE_CHECKING:
    from sdforge.models.library import Library


class EngineCatalog:
    """The `Catalog` of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # The engine itself needs less of it than lists of names do.
        self._library = cast("Library", engine.library)

    @property
    def extensions(self) -> Registry[Extension]:
        """Extensions, whose fields are axes too."""
        return self._engine.extensions

    def checkpoints(self) -> list[str]:
        """Names of all checkpoints; broken ones too, as holes say what is wrong with them."""
        return [info.title for info in self._engine.library.checkpoints()]

    def checkpoint(self, name: str) -> str:
        """Return the listed name of a checkpoint by any alias; raises `UnknownName`."""
        return self._engine.library.find(name).title

    def vaes(self) -> list[str]:
        """Names of VAE files, "Automatic" and "None" first."""
        return ["Automatic", "None", *(vae.name for vae in self._library.vaes())]

    def styles(self) -> list[str]:
        """Names of styles."""
        return [style.name for style in self._engine.styles.styles()]

    def loras(self) -> list[str]:
        """Names of LoRA files."""
        return [lora.name for lora in self._library.loras.loras()]

    def upscalers(self) -> list[str]:
        """Names of upscalers for hires fix."""
        return [*LATENT_MODES.names(), *picture_upscaler_names(self._engine.library.upscalers)]
