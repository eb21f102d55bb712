"""SDXL's text: two CLIPs side by side, and the numbers about size that go with them.

Podell et al. 2023, arXiv:2307.01952, section 2.2. Rules of the settings are A1111's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sdforge.core.settings import Settings
from sdforge.models.adapters.embedding_library import EmbeddingTokenizer
from sdforge.models.adapters.embedding_table import EmbeddingTable, Entry
from sdforge.models.denoiser import Conditioning
from sdforge.models.text_encoder import PromptReader, Situation, TextEncoder

# Without the setting `sdxl_clip_l_skip` CLIP-L always gives its last layer but one.
_CLIP_L_SKIP = 2


class SdxlText:
    """The text encoders of SDXL (two) and of its refiner (the larger one alone)."""

    is_guided = False
    tells_sides = False
    sees_pictures = False

    def __init__(self, *encoders: TextEncoder, has_aesthetic_score: bool = False) -> None:
        """Take CLIP-L and CLIP-G, or CLIP-G alone; the last one gives the pooled text."""
        self.encoders = encoders
        self._has_aesthetic_score = has_aesthetic_score

    @property
    def tokenizer(self) -> EmbeddingTokenizer:
        """The tokenizer of both, which also knows the embeddings in use."""
        return self.encoders[0].tokenizer

    @property
    def embeddings(self) -> EmbeddingTable:
        """Embeddings that prompts may name."""
        return self.encoders[0].embeddings

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each network's word vectors."""
        return tuple(width for encoder in self.encoders for width in encoder.widths)

    @property
    def key(self) -> tuple[object, ...]:
        """What encoded text depends on beside the checkpoint and settings."""
        return tuple(encoder.key for encoder in self.encoders)

    def use_embeddings(self, entries: Sequence[Entry]) -> None:
        """Let prompts name these embeddings, in place of those before."""
        for encoder in self.encoders:
            encoder.use_embeddings(entries)

    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return the states of all encoders beside each other, and the pooled text."""
        chunks = prompt.chunks(self.tokenizer)
        skip = settings.CLIP_stop_at_last_layers if settings.sdxl_clip_l_skip else _CLIP_L_SKIP
        encoded = [
            encoder.encode(chunks, clip_skip=encoder.rule.skip or skip, emphasis=settings.emphasis)
            for encoder in self.encoders
        ]
        hidden = torch.cat([one.hidden for one in encoded], dim=-1)
        return Conditioning(hidden, encoded[-1].pooled)

    def situated(
        self, encoded: Conditioning, prompt: PromptReader, situation: Situation, settings: Settings
    ) -> Conditioning:
        """Return the conditioning with its sizes; an empty negative prompt is zeros."""
        if situation.is_negative and prompt.is_empty and encoded.pooled is not None:
            encoded = replace(
                encoded,
                hidden=torch.zeros_like(encoded.hidden),
                pooled=torch.zeros_like(encoded.pooled),
            )
        size = (situation.height, situation.width)
        numbers: tuple[float, ...] = (*size, settings.sdxl_crop_top, settings.sdxl_crop_left)
        if self._has_aesthetic_score:
            numbers += (
                settings.sdxl_refiner_low_aesthetic_score
                if situation.is_negative
                else settings.sdxl_refiner_high_aesthetic_score,
            )
        else:
            numbers += size
        return replace(encoded, numbers=torch.tensor([numbers], device=encoded.hidden.device))
