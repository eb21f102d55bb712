"""Chunks of token ids to the states that the denoiser attends to: CLIP, clip skip, emphasis.

Parsing prompts and cutting chunks is `prompt`'s work; chunks arrive as plain ids and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from sdforge.core.errors import InvalidRequest
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.adapters.embedding_library import EmbeddingTokenizer
from sdforge.models.adapters.embedding_table import EmbeddingTable, Entry
from sdforge.models.denoiser import Conditioning
from sdforge.models.tokenizers import Tokenizer

EMPHASIS = ("Original", "No norm", "Ignore", "None")
# Activations per token, layer width and byte of a number: the MLP's fourfold width twice, queries,
# keys, values, scores and residuals, rounded up.
_ACTIVATION_FACTOR = 24


class Chunk(Protocol):
    """Ids of one text window, start and end marks included, with a weight for each."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Emphasis of each token; 1 is none."""


class TextEncoder:
    """The text encoder of a bundle."""

    def __init__(self, component: Component, memory: MemoryManager, tokenizer: Tokenizer) -> None:
        """Take the network, the manager that places it and the tokenizer of its training."""
        network: Any = component.module
        self.component = component
        self._base_tokenizer = tokenizer
        self.embeddings = EmbeddingTable(tokenizer, ())
        self._memory = memory
        self._layers: int = network.layer_count
        self._width: int = network.width
        self._vocabulary: int = network.vocabulary

    def use_embeddings(self, entries: Sequence[Entry]) -> None:
        """Let prompts name these embeddings, in place of those before."""
        self.embeddings = EmbeddingTable(self._base_tokenizer, entries)

    @property
    def tokenizer(self) -> EmbeddingTokenizer:
        """The tokenizer of its training, which also knows the embeddings in use."""
        return self.embeddings.tokenizer

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each network's word vectors."""
        return (self._width,)

    @property
    def key(self) -> tuple[object, ...]:
        """What encoded text depends on beside the checkpoint: patches and embeddings."""
        return (self.component.patch_key, self.embeddings.key)

    @torch.inference_mode()
    def encode(
        self, chunks: Sequence[Chunk], *, clip_skip: int = 1, emphasis: str = "Original"
    ) -> Conditioning:
        """Return the states of all chunks in a row: (1, 77 × chunks, width), fp32.

        Args:
            chunks: at least one, all of the same length.
            clip_skip: 1 takes the last layer's output, 2 the one before…; all of them pass the
                final normalisation.
            emphasis: 'Original' scales states by the weights and then restores each chunk's mean;
                'No norm' scales only; 'Ignore' and 'None' do not scale.

        Raises:
            InvalidRequest: an unknown emphasis.
        """
        if emphasis not in EMPHASIS:
            raise InvalidRequest("emphasis", emphasis, ", ".join(map(repr, EMPHASIS)))
        device = self._memory.compute_device
        rows, extra = self._placed([chunk.ids for chunk in chunks])
        ids = torch.tensor(rows, device=device)
        needed = ids.numel() * self._width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self.component, working_bytes=needed) as module:
            layers = self._layers + 1 - min(max(clip_skip, 1), self._layers)
            states = module(ids, layers, extra).float()
        if emphasis in ("Original", "No norm"):
            weights = torch.tensor([chunk.weights for chunk in chunks], device=device)
            states = _emphasise(states, weights, restore_mean=emphasis == "Original")
        return Conditioning(states.flatten(0, 1).unsqueeze(0))

    def _placed(
        self, rows: Sequence[tuple[int, ...]]
    ) -> tuple[list[list[int]], torch.Tensor | None]:
        """Return ids with those of embeddings numbered on, and the vectors these stand for."""
        first = self.tokenizer.vocabulary
        used = sorted({number for row in rows for number in row if number >= first})
        if not used:
            return [list(row) for row in rows], None
        vectors = self.embeddings.vectors(used, 0, 1).to(self._memory.compute_device)
        numbers = {number: self._vocabulary + place for place, number in enumerate(used)}
        return [[numbers.get(number, number) for number in row] for row in rows], vectors


def _emphasise(states: torch.Tensor, weights: torch.Tensor, *, restore_mean: bool) -> torch.Tensor:
    """Scale token states (chunks, tokens, width) by weights (chunks, tokens)."""
    scaled = states * weights.unsqueeze(-1)
    if not restore_mean:
        return scaled
    # The mean is over a whole chunk, as in A1111; a chunk without weights stays exactly as it is.
    before = states.mean(dim=(1, 2), keepdim=True)
    after = scaled.mean(dim=(1, 2), keepdim=True)
    is_plain = (weights == 1).all(dim=1)[:, None, None]
    return torch.where(is_plain, states, scaled * (before / after))
