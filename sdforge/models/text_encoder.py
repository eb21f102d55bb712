"""Prompts to the states that the denoiser attends to: one CLIP, or several encoders together.

Parsing prompts and cutting chunks is `prompt`'s work: a `PromptReader` hands out plain ids and
weights. What encoders of a family do together is in `sdxl_text.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

import torch
from PIL import Image

from sdforge.core.errors import InvalidRequest
from sdforge.core.settings import Settings
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


@dataclass(frozen=True)
class ShownPicture:
    """An RGB picture that a prompt is about; two of the same pixels, by `digest`, are equal."""

    digest: str
    image: Image.Image = field(compare=False, repr=False)

    @classmethod
    def of(cls, image: Image.Image) -> ShownPicture:
        """Take a picture as it is shown."""
        return cls(sha256(repr(image.size).encode() + image.tobytes()).hexdigest(), image)


class PromptReader(Protocol):
    """One prompt, which each encoder of a model reads in its own way."""

    @property
    def text(self) -> str:
        """All of it, as written."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no text at all."""

    @property
    def is_negative(self) -> bool:
        """Whether it is a negative prompt, where encoders tell the sides apart; else False."""

    @property
    def pictures(self) -> Sequence[ShownPicture]:
        """Pictures that it is about, where the encoder sees such; else none."""

    def chunks(self, tokenizer: EmbeddingTokenizer) -> Sequence[Chunk]:
        """Return windows of 77 tokens, at least one."""

    def tokens(self, tokenizer: Tokenizer, least: int) -> Chunk:
        """Return all tokens in one piece, padded up to `least`."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What a text is encoded for: pictures of that size in pixels, a side, a scale of guidance.

    `distilled_cfg_scale` is for models that are told how closely to follow the prompt (Flux dev).
    """

    width: int
    height: int
    is_negative: bool = False
    distilled_cfg_scale: float = 0.0


class PromptText(Protocol):
    """The text encoders of a bundle: `TextEncoder` where there is one, else a family's own."""

    @property
    def tokenizer(self) -> EmbeddingTokenizer:
        """What prompts are counted and embeddings found with."""

    @property
    def embeddings(self) -> EmbeddingTable:
        """Embeddings that prompts may name."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each network's word vectors, of those that take embeddings."""

    @property
    def key(self) -> tuple[object, ...]:
        """What encoded text depends on beside the checkpoint and settings."""

    @property
    def is_guided(self) -> bool:
        """Whether the model is told the distilled CFG scale."""

    @property
    def tells_sides(self) -> bool:
        """Whether a negative prompt is read in another way than a prompt of the same words."""

    @property
    def sees_pictures(self) -> bool:
        """Whether a prompt is read together with the pictures that it is about."""

    def use_embeddings(self, entries: Sequence[Entry]) -> None:
        """Let prompts name these embeddings, in place of those before."""

    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return a prompt's conditioning as far as it depends on the text alone."""

    def situated(
        self, encoded: Conditioning, prompt: PromptReader, situation: Situation, settings: Settings
    ) -> Conditioning:
        """Return the conditioning for a situation; the same object where nothing is added."""


@dataclass(frozen=True, kw_only=True)
class ClipRule:
    """How a family reads a CLIP.

    Attributes:
        skip: the fixed clip skip; None takes the request's.
        normed: whether states pass the final normalisation.
        pooled: whether the pooled text of the first chunk is returned as well.
        pads_with_zero: whether chunks are filled up with id 0 instead of end marks (OpenCLIP).
        place: which of the model's encoders it is, counted from 0.
        count: how many of them take embeddings.
    """

    skip: int | None = None
    normed: bool = True
    pooled: bool = False
    pads_with_zero: bool = False
    place: int = 0
    count: int = 1


class TextEncoder:
    """One CLIP of a bundle."""

    is_guided = False
    tells_sides = False
    sees_pictures = False

    def __init__(
        self,
        component: Component,
        memory: MemoryManager,
        tokenizer: Tokenizer,
        rule: ClipRule | None = None,
    ) -> None:
        """Take the network, the manager that places it and the tokenizer of its training."""
        network: Any = component.module
        self.component = component
        self.rule = rule or ClipRule()
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

    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return the states of all chunks of a prompt in a row; raises as `encode`."""
        return self.encode(
            prompt.chunks(self.tokenizer),
            clip_skip=self.rule.skip or settings.CLIP_stop_at_last_layers,
            emphasis=settings.emphasis,
        )

    def situated(
        self, encoded: Conditioning, prompt: PromptReader, situation: Situation, settings: Settings
    ) -> Conditioning:
        """Return `encoded`: nothing is added."""
        return encoded

    @torch.inference_mode()
    def encode(
        self, chunks: Sequence[Chunk], *, clip_skip: int = 1, emphasis: str = "Original"
    ) -> Conditioning:
        """Return the states of all chunks in a row: (1, 77 × chunks, width), fp32.

        The pooled text is the first chunk's (A1111).

        Args:
            chunks: at least one, all of the same length.
            clip_skip: 1 takes the last layer's output, 2 the one before…; all of them pass the
                final normalisation where the rule says so.
            emphasis: 'Original' scales states by the weights and then restores each chunk's mean;
                'No norm' scales only; 'Ignore' and 'None' do not scale.

        Raises:
            InvalidRequest: an unknown emphasis.
        """
        if emphasis not in EMPHASIS:
            raise InvalidRequest("emphasis", emphasis, ", ".join(map(repr, EMPHASIS)))
        device = self._memory.compute_device
        rule, end = self.rule, self._base_tokenizer.eos
        rows, extra = self._placed([self._padded(chunk.ids) for chunk in chunks])
        ids = torch.tensor(rows, device=device)
        needed = ids.numel() * self._width * 4 * _ACTIVATION_FACTOR
        pooled = None
        with self._memory.lease(self.component, working_bytes=needed) as module:
            layers = self._layers + 1 - min(max(clip_skip, 1), self._layers)
            answer = module(
                ids, layers, extra, normed=rule.normed, end=end if rule.pooled else None
            )
            if rule.pooled:
                answer, pooled = answer[0], answer[1][:1].float()
            states = answer.float()
        if emphasis in ("Original", "No norm"):
            weights = torch.tensor([chunk.weights for chunk in chunks], device=device)
            states = emphasised(states, weights, restore_mean=emphasis == "Original")
        return Conditioning(states.flatten(0, 1).unsqueeze(0), pooled)

    def _padded(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids of a chunk with this encoder's padding behind the end mark."""
        if not self.rule.pads_with_zero:
            return ids
        end = ids.index(self._base_tokenizer.eos) + 1
        return (*ids[:end], *[0] * (len(ids) - end))

    def _placed(
        self, rows: Sequence[tuple[int, ...]]
    ) -> tuple[list[list[int]], torch.Tensor | None]:
        """Return ids with those of embeddings numbered on, and the vectors these stand for."""
        first = self.tokenizer.vocabulary
        used = sorted({number for row in rows for number in row if number >= first})
        if not used:
            return [list(row) for row in rows], None
        rule = self.rule
        vectors = self.embeddings.vectors(used, rule.place, rule.count).to(
            self._memory.compute_device
        )
        numbers = {number: self._vocabulary + place for place, number in enumerate(used)}
        return [[numbers.get(number, number) for number in row] for row in rows], vectors


def emphasised(states: torch.Tensor, weights: torch.Tensor, *, restore_mean: bool) -> torch.Tensor:
    """Scale token states (chunks, tokens, width) by weights (chunks, tokens)."""
    scaled = states * weights.unsqueeze(-1)
    if not restore_mean:
        return scaled
    # The mean is over a whole chunk, as in A1111; a chunk without weights stays exactly as it is.
    before = states.mean(dim=(1, 2), keepdim=True)
    after = scaled.mean(dim=(1, 2), keepdim=True)
    is_plain = (weights == 1).all(dim=1)[:, None, None]
    return torch.where(is_plain, states, scaled * (before / after))
