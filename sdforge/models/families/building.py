"""What all families need to make recipes: quiet libraries, skeletons, and a check at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe, Source
from sdforge.models.layout import Layout

if TYPE_CHECKING:
    from torch import nn

    from sdforge.memory.component import Component
    from sdforge.models.parts import Part
    from sdforge.models.skeleton import Skeleton

# Arguments of a network, as a key.
Config = tuple[tuple[str, Any], ...]

# Files of the same layout share recipes, networks of the same arguments share a skeleton (some 4 MB
# for a U-Net). More are built anew.
RECIPES_KEPT, SKELETONS_KEPT = 8, 4


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hold back advice that diffusers, and transformers below it, log while a model is built."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def frozen(config: Mapping[str, Any]) -> Config:
    """Return arguments as a key."""
    return tuple(config.items())


def kl_vae_only(part: Part, channels: int) -> str | None:
    """Return 'vae' for a KL VAE of so many latent channels, None for all else.

    For families whose checkpoints hold everything and of which only the VAE is replaced.
    """
    return "vae" if part.role == "vae" and part.kind == f"kl-{channels}" else None


def prefix_of(role: str, header: CheckpointHeader, role_of: Callable[[Part], str | None]) -> str:
    """Return what the tensors of a role's network begin with in a file; "" where it has none."""
    from sdforge.models.parts import parts

    held = {role_of(part): part.prefix for part in parts(header.layout)}
    return held.get(role, "")


@lru_cache(maxsize=RECIPES_KEPT)
def plain_sources(layout: Layout, prefix: str) -> Mapping[str, Source]:
    """Return where parameters come from in a file that names them as the module does."""
    return {
        name: Source(key, layout.tensors[key].shape) for name, key in layout.under(prefix).items()
    }


def skeleton_of(make: Callable[[], nn.Module]) -> Skeleton:
    """Return the skeleton of the network that `make` builds; no weights are drawn."""
    import torch

    from sdforge.models.skeleton import Skeleton, no_initial_weights

    with torch.device("meta"), no_initial_weights(), quiet_libraries():
        return Skeleton(make())


def check_text_width(denoiser: Component, field: str, *texts: Component) -> None:
    """Check that text encoders give states as wide as the denoiser wants, all together.

    Args:
        denoiser: of diffusers; `field` names the width in its configuration.
        field: 'joint_attention_dim'.
        texts: each has a `width`.

    Raises:
        UnsupportedCheckpoint: they differ.
    """
    network: Any = denoiser.module
    modules: list[Any] = [text.module for text in texts]
    wanted, found = network.config[field], sum(module.width for module in modules)
    if wanted != found:
        names = " and ".join(text.name for text in texts)
        raise UnsupportedCheckpoint(
            f"{denoiser.name} wants text states of width {wanted}, {names} gives {found}: choose "
            "the text encoder that was made for it under VAE / Text Encoder"
        )


def check_complete(recipe: Recipe, header: CheckpointHeader) -> None:
    """Check that every tensor of the module has a source of the same shape.

    Raises:
        MissingModel: some have none.
        UnsupportedCheckpoint: a shape differs.
    """
    file, part = header.path.name, recipe.role.replace("_", " ")
    wanted = recipe.skeleton.shapes
    missing, misfit = _faults(recipe)
    if missing:
        raise MissingModel(
            f"the {part} in {file} is incomplete: {len(missing)} of {len(wanted)} tensors are "
            f"missing, for one {missing[0]}"
        )
    if misfit is not None:
        source = recipe.sources[misfit]
        raise UnsupportedCheckpoint(
            f"the {part} in {file} cannot be run: {source.key} has the shape "
            f"{list(source.shape)}, {list(wanted[misfit])} was expected"
        )


@lru_cache(maxsize=RECIPES_KEPT)
def _faults(recipe: Recipe) -> tuple[tuple[str, ...], str | None]:
    """Return the names that have no source; where all have one, the first of another shape."""
    wanted, sources = recipe.skeleton.shapes, recipe.sources
    missing = tuple(name for name in wanted if name not in sources)
    if missing:
        return missing, None
    return (), next((name for name in wanted if sources[name].shape != wanted[name]), None)
