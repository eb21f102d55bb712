"""What text encoders without embeddings have in common: none is known, and none acts.

Families whose text goes through T5 or a language model alone build on this and say how a prompt is
encoded.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.models.adapters.embedding_library import EmbeddingTokenizer
from sdforge.models.adapters.embedding_table import EmbeddingTable, Entry
from sdforge.models.denoiser import Conditioning
from sdforge.models.text_encoder import PromptReader, Situation
from sdforge.models.tokenizers import clip_tokenizer


class PlainText:
    """A text encoder to which an embedding's name is a word like any other."""

    is_guided = False
    tells_sides = False
    sees_pictures = False

    def __init__(self, component: Component) -> None:
        """Take the network."""
        self.component = component
        # For the names of embeddings in infotexts, of which there are none.
        self._table = EmbeddingTable(clip_tokenizer(), ())

    @property
    def tokenizer(self) -> EmbeddingTokenizer:
        """A tokenizer to look for embeddings with; the prompt is read by the network's own."""
        return self._table.tokenizer

    @property
    def embeddings(self) -> EmbeddingTable:
        """None act."""
        return self._table

    @property
    def widths(self) -> tuple[int, ...]:
        """None: no network takes embeddings."""
        return ()

    @property
    def key(self) -> tuple[object, ...]:
        """What encoded text depends on beside the checkpoint and settings."""
        return (self.component.patch_key,)

    def use_embeddings(self, entries: Sequence[Entry]) -> None:
        """Do nothing: no network takes embeddings."""

    def situated(
        self, encoded: Conditioning, prompt: PromptReader, situation: Situation, settings: Settings
    ) -> Conditioning:
        """Return `encoded`: nothing is added."""
        return encoded
