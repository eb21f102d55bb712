"""What families with one text encoder share: a reader, a flow transformer, a VAE.

A family says which kinds of networks these are, how each is made and what puts it to work; how they
are told apart in files, checked against each other and put together is the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Match, Recipe
from sdforge.models.families.building import check_complete, check_text_width, prefix_of
from sdforge.models.families.flux import LATENT_CHANNELS, LATENT_DOWNSCALE, SCALE, SHIFT
from sdforge.models.families.ldm import vae_recipe
from sdforge.models.parts import Part

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.bundle import Parts
    from sdforge.models.flow_denoiser import FlowDenoiser
    from sdforge.models.text_encoder import PromptText
    from sdforge.models.vae import Vae


class OneReader:
    """All of `base.Family` but `match` and `apart`; the VAE is Flux.1's unless a family says else.

    Attributes:
        name: see `base.Family`.
        label: see `base.Family`.
        reader: kind of the text encoder, as `parts.Part` has it.
        text_width: what the denoiser's configuration calls the width of the reader's states.
        vae_kind: kind of the VAE.
    """

    name: str
    label: str
    roles: tuple[str, ...] = ("text_encoder", "denoiser", "vae")
    optional: frozenset[str] = frozenset()
    reader: str
    text_width = "joint_attention_dim"
    vae_kind = f"kl-{LATENT_CHANNELS}"

    def role_of(self, part: Part) -> str | None:
        """Return what a network of any file is to this family, None for no use."""
        if part.role == "denoiser":
            return "denoiser" if part.kind == self.name else None
        return {self.reader: "text_encoder", self.vae_kind: "vae"}.get(part.kind)

    def recipe(self, role: str, header: CheckpointHeader) -> Recipe:
        """Return how to make one of the networks from a file that holds it.

        Raises:
            MissingModel: the file lacks this part, or some of it, or comes without its tokenizer.
            UnsupportedCheckpoint: its shapes do not fit together.
        """
        prefix = prefix_of(role, header, self.role_of)
        if role == "vae":
            recipe = self.vae_recipe(header, prefix)
        elif role == "text_encoder":
            recipe = self.text_recipe(header, prefix)
        else:
            recipe = self.transformer_recipe(header, prefix)
        check_complete(recipe, header)
        return recipe

    def assemble(
        self,
        match: Match,
        components: Mapping[str, Component],
        memory: MemoryManager,
        headers: Mapping[str, CheckpointHeader],
    ) -> Parts:
        """Return encoder, denoiser and VAE over the loaded networks."""
        from sdforge.models.bundle import Parts
        from sdforge.models.preview import fit_preview

        reader, denoiser = components["text_encoder"], components["denoiser"]
        check_text_width(denoiser, self.text_width, reader)
        vae = self.vae(components["vae"], memory)
        return Parts(
            latent_format=vae.latent_format.with_preview(*fit_preview(vae)),
            text=self.text(reader, memory, headers["text_encoder"]),
            vae=vae,
            denoiser=self.denoiser(denoiser),
        )

    def transformer_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the denoiser from the tensors below `prefix`."""
        raise NotImplementedError

    def text_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the reader from the tensors below `prefix`."""
        raise NotImplementedError

    def vae_recipe(self, header: CheckpointHeader, prefix: str) -> Recipe:
        """Return how to make the VAE from the tensors below `prefix`."""
        return vae_recipe(header, latent_channels=LATENT_CHANNELS, family=self.label)

    def denoiser(self, component: Component) -> FlowDenoiser:
        """Return what calls the denoiser."""
        raise NotImplementedError

    def text(
        self, component: Component, memory: MemoryManager, header: CheckpointHeader
    ) -> PromptText:
        """Return what reads prompts; `header` is that of the reader's file."""
        raise NotImplementedError

    def vae(self, component: Component, memory: MemoryManager) -> Vae:
        """Return what encodes and decodes."""
        from sdforge.models.bundle import LatentFormat
        from sdforge.models.vae import Vae

        plain = LatentFormat(
            channels=LATENT_CHANNELS, downscale=LATENT_DOWNSCALE, scale=SCALE, shift=SHIFT
        )
        return Vae(component, memory, plain)
