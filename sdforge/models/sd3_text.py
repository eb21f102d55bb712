"""SD 3's text: CLIP-L and CLIP-G beside each other, T5 behind them, or nothing in its place.

Esser et al. 2024, arXiv:2403.03206, section 4 and figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from sdforge.core.settings import Settings
from sdforge.models.adapters.embedding_library import EmbeddingTokenizer
from sdforge.models.adapters.embedding_table import EmbeddingTable, Entry
from sdforge.models.denoiser import Conditioning
from sdforge.models.flux_text import T5Text
from sdforge.models.text_encoder import PromptReader, Situation, TextEncoder


class Sd3Text:
    """The text encoders of SD 3 and 3.5."""

    is_guided = False
    tells_sides = False
    sees_pictures = False

    def __init__(
        self, clips: Sequence[TextEncoder], t5: T5Text | None, *, width: int, least: int
    ) -> None:
        """Take CLIP-L and CLIP-G, and T5 where there is one.

        Args:
            clips: both, the smaller first.
            t5: None to draw without; zeros stand where its states would be.
            width: of the states that the denoiser attends to.
            least: tokens of T5's part.
        """
        self.clips = clips
        self.t5 = t5
        self._width = width
        self._least = least

    @property
    def tokenizer(self) -> EmbeddingTokenizer:
        """CLIP's."""
        return self.clips[0].tokenizer

    @property
    def embeddings(self) -> EmbeddingTable:
        """None act: what they stand for has no place in T5."""
        return self.clips[0].embeddings

    @property
    def widths(self) -> tuple[int, ...]:
        """None: no network takes embeddings."""
        return ()

    @property
    def key(self) -> tuple[object, ...]:
        """What encoded text depends on beside the checkpoint and settings."""
        large = None if self.t5 is None else self.t5.component.patch_key
        return (*(clip.key for clip in self.clips), large)

    def use_embeddings(self, entries: Sequence[Entry]) -> None:
        """Do nothing: no network takes embeddings."""

    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return CLIP's states, filled up to T5's width, with T5's behind; and both pooled."""
        encoded = [clip.encode_prompt(prompt, settings) for clip in self.clips]
        near = torch.cat([one.hidden for one in encoded], dim=-1)
        near = F.pad(near, (0, self._width - near.shape[-1]))
        if self.t5 is None:
            far = near.new_zeros(1, self._least, self._width)
        else:
            far = self.t5.encode(prompt, settings.emphasis)
        pooled = torch.cat([one.pooled for one in encoded if one.pooled is not None], dim=-1)
        return Conditioning(torch.cat([near, far], dim=1), pooled, is_sequence=True)

    def situated(
        self, encoded: Conditioning, prompt: PromptReader, situation: Situation, settings: Settings
    ) -> Conditioning:
        """Return `encoded`: nothing is added."""
        return encoded
