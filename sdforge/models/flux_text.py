"""Flux's text: T5 for the states, CLIP-L for one pooled vector, and how strongly to follow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from sdforge.core.errors import InvalidRequest
from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.adapters.embedding_library import EmbeddingTokenizer
from sdforge.models.adapters.embedding_table import EmbeddingTable, Entry
from sdforge.models.denoiser import Conditioning
from sdforge.models.text_encoder import (
    EMPHASIS,
    Chunk,
    PromptReader,
    Situation,
    TextEncoder,
    emphasised,
)
from sdforge.models.tokenizers import Tokenizer

# Activations per token, layer width and byte of a number: the gated part's width is 2.5 times the
# state's and exists twice, beside queries, keys, values and scores.
_ACTIVATION_FACTOR = 24


class _Closed(NamedTuple):
    """The tokens of a prompt with one of padding behind them."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class T5Text:
    """A T5 of a bundle: prompts in one piece, padded up to a least length or by one token."""

    def __init__(
        self,
        component: Component,
        memory: MemoryManager,
        tokenizer: Callable[[], Tokenizer],
        *,
        least: int | None,
    ) -> None:
        """Take the network.

        Args:
            component: the network.
            memory: that places it.
            tokenizer: made when the first prompt comes.
            least: tokens to pad up to. None pads by one, which no other token attends to (Chroma).
        """
        self.component = component
        self._memory = memory
        self._tokenizer = tokenizer
        self._least = least

    @torch.inference_mode()
    def encode(self, prompt: PromptReader, emphasis: str) -> torch.Tensor:
        """Return the states, (1, tokens, width), fp32.

        Raises:
            InvalidRequest: an unknown emphasis.
        """
        if emphasis not in EMPHASIS:
            raise InvalidRequest("emphasis", emphasis, ", ".join(map(repr, EMPHASIS)))
        tokenizer = self._tokenizer()
        if self._least is not None:
            return self.states(prompt.tokens(tokenizer, self._least), emphasis)
        tokens = prompt.tokens(tokenizer, 0)
        closed = _Closed((*tokens.ids, tokenizer.pad), (*tokens.weights, 1.0))
        return self.states(closed, emphasis, seen=len(tokens.ids))

    def states(self, tokens: Chunk, emphasis: str, *, seen: int | None = None) -> torch.Tensor:
        """Return the states of tokens, weighted as CLIP's are; the first `seen` are attended to."""
        device = self._memory.compute_device
        ids = torch.tensor([tokens.ids], device=device)
        network: Any = self.component.module
        needed = ids.numel() * network.width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self.component, working_bytes=needed) as module:
            states: torch.Tensor = module(ids, seen).float()
        if emphasis in ("Original", "No norm"):
            weights = torch.tensor([tokens.weights], device=device)
            states = emphasised(states, weights, restore_mean=emphasis == "Original")
        return states


class FluxText:
    """The text encoders of Flux."""

    tells_sides = False
    sees_pictures = False

    def __init__(self, clip: TextEncoder, t5: T5Text, *, is_guided: bool) -> None:
        """Take both; `is_guided` models are told the distilled CFG scale."""
        self.clip = clip
        self.t5 = t5
        self.is_guided = is_guided

    @property
    def tokenizer(self) -> EmbeddingTokenizer:
        """CLIP's."""
        return self.clip.tokenizer

    @property
    def embeddings(self) -> EmbeddingTable:
        """None act: what they stand for has no place in T5."""
        return self.clip.embeddings

    @property
    def widths(self) -> tuple[int, ...]:
        """None: no network takes embeddings."""
        return ()

    @property
    def key(self) -> tuple[object, ...]:
        """What encoded text depends on beside the checkpoint and settings."""
        return (self.clip.key, self.t5.component.patch_key)

    def use_embeddings(self, entries: Sequence[Entry]) -> None:
        """Do nothing: no network takes embeddings."""

    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return T5's states and CLIP's pooled text."""
        pooled = self.clip.encode_prompt(prompt, settings).pooled
        hidden = self.t5.encode(prompt, settings.emphasis)
        return Conditioning(hidden, pooled, is_sequence=True)

    def situated(
        self, encoded: Conditioning, prompt: PromptReader, situation: Situation, settings: Settings
    ) -> Conditioning:
        """Return the conditioning with the distilled CFG scale, where the model is told it."""
        if not self.is_guided:
            return encoded
        told = torch.tensor([[situation.distilled_cfg_scale]], device=encoded.hidden.device)
        return replace(encoded, numbers=told)
