"""Prompts into chunks: 75 tokens each, between a start and an end mark, with a weight per token.

What CLIP-like text encoders take. The tokenizer is handed in; `models.text_encoder` encodes the
result. Rules are A1111's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

from sdforge.core.errors import InvalidRequest
from sdforge.prompt.syntax import Break, Span, parse_emphasis

CHUNK_TOKENS = 75
EMPHASIS_MODES = ("None", "Ignore", "Original", "No norm")
# Prompts come again with every picture of a job and every keystroke of the counter.
_REMEMBERED_PROMPTS = 1024


# One id, or several that belong together: the vectors of an embedding.
Token: TypeAlias = int | tuple[int, ...]


class TokenizerLike(Protocol):
    """Turns text into ids, without the marks at start and end."""

    @property
    def bos(self) -> int:
        """Id of the mark at the start."""

    @property
    def eos(self) -> int:
        """Id of the mark at the end."""

    @property
    def pad(self) -> int:
        """Id that fills up a chunk after the end mark."""

    @property
    def comma(self) -> int:
        """Id of a comma."""

    def __call__(self, text: str) -> Sequence[Token]:
        """Return the ids of a text of any length; ids in a tuple are never torn apart."""

    def __hash__(self) -> int:
        """Chunks are remembered by prompt and tokenizer."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """77 ids, from the start mark through the end mark and padding, and as many weights."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def chunk_prompt(
    text: str,
    tokenizer: TokenizerLike,
    *,
    comma_backtrack: int = 20,
    emphasis: str = "Original",
) -> list[Chunk]:
    """Return the chunks of a prompt, at least one.

    Args:
        text: the prompt.
        tokenizer: of the encoder that will read the chunks.
        comma_backtrack: when a chunk is full in the middle of a phrase and a comma is at most this
            many tokens back, what follows that comma moves to the next chunk; 0 never.
        emphasis: "None" takes brackets for text, "Ignore" reads them and gives every token weight
            1; the others differ only in how the encoder applies the weights.

    Raises:
        InvalidRequest: no such emphasis mode.
    """
    return list(_cut(text, tokenizer, comma_backtrack, emphasis).chunks)


def count_tokens(
    text: str,
    tokenizer: TokenizerLike,
    *,
    comma_backtrack: int = 20,
    emphasis: str = "Original",
) -> tuple[int, int]:
    """Return how many tokens a prompt takes and how many its chunks hold: 12 of 75, 80 of 150.

    Padding before the last chunk counts, since nothing else can use it.
    """
    cut = _cut(text, tokenizer, comma_backtrack, emphasis)
    return cut.tokens, max(1, -(-cut.tokens // CHUNK_TOKENS)) * CHUNK_TOKENS


def weigh_tokens(
    text: str, tokenizer: TokenizerLike, *, least: int = 0, emphasis: str = "Original"
) -> Chunk:
    """Return the tokens of a prompt in one piece, for encoders without a fixed window (T5).

    No start mark, one end mark, then padding up to `least` tokens; `BREAK` only divides words.

    Raises:
        InvalidRequest: no such emphasis mode.
    """
    ids: list[int] = []
    weights: list[float] = []
    for piece in _pieces(text, emphasis):
        if isinstance(piece, Break):
            continue
        tokens = [part for token in tokenizer(piece.text) for part in _parts(token)]
        ids += tokens
        weights += [piece.weight] * len(tokens)
    missing = max(least - len(ids) - 1, 0)
    return Chunk(
        (*ids, tokenizer.eos, *[tokenizer.pad] * missing), (*weights, *[1.0] * (missing + 1))
    )


@dataclass(frozen=True, slots=True)
class _Cut:
    chunks: tuple[Chunk, ...]
    tokens: int


@lru_cache(maxsize=_REMEMBERED_PROMPTS)
def _cut(text: str, tokenizer: TokenizerLike, comma_backtrack: int, emphasis: str) -> _Cut:
    cutter = _Cutter(tokenizer, comma_backtrack)
    for piece in _pieces(text, emphasis):
        if isinstance(piece, Break):
            cutter.close()
            continue
        for token in tokenizer(piece.text):
            cutter.add(token, piece.weight)
    return cutter.finish()


def _pieces(text: str, emphasis: str) -> list[Span | Break]:
    """Return the spans and breaks of a prompt, with the weights that a mode gives them."""
    if emphasis not in EMPHASIS_MODES:
        raise InvalidRequest("emphasis", emphasis, ", ".join(map(repr, EMPHASIS_MODES)))
    if emphasis == "None":
        return [Span(text)]
    pieces = parse_emphasis(text)
    if emphasis == "Ignore":
        return [Span(piece.text) if isinstance(piece, Span) else piece for piece in pieces]
    return pieces


class _Cutter:
    """Collects tokens into the open chunk and closes it when it is full."""

    def __init__(self, tokenizer: TokenizerLike, comma_backtrack: int) -> None:
        self._tokenizer = tokenizer
        self._backtrack = comma_backtrack
        self._chunks: list[Chunk] = []
        self._ids: list[int] = []
        self._weights: list[float] = []
        self._after_comma: int | None = None

    def add(self, token: Token, weight: float) -> None:
        parts = _parts(token)
        is_comma = token == self._tokenizer.comma
        if isinstance(token, tuple):
            if len(self._ids) + len(parts) > CHUNK_TOKENS:
                self.close()
        elif len(self._ids) == CHUNK_TOKENS:
            self._wrap(keep_phrase=not is_comma)
        self._ids += parts
        self._weights += [weight] * len(parts)
        if is_comma:
            self._after_comma = len(self._ids)

    def close(self) -> None:
        self._chunks.append(_closed(self._ids, self._weights, self._tokenizer))
        self._ids, self._weights = [], []
        self._after_comma = None

    def finish(self) -> _Cut:
        tokens = len(self._chunks) * CHUNK_TOKENS + len(self._ids)
        if self._ids or not self._chunks:
            self.close()
        return _Cut(tuple(self._chunks), tokens)

    def _wrap(self, *, keep_phrase: bool) -> None:
        """Begin a new chunk, with the unfinished phrase where it is short enough."""
        cut = self._after_comma
        # The comma itself counts as one of the tokens back.
        if not keep_phrase or cut is None or CHUNK_TOKENS - cut + 1 > self._backtrack:
            self.close()
            return
        ids, weights = self._ids[cut:], self._weights[cut:]
        del self._ids[cut:], self._weights[cut:]
        self.close()
        self._ids, self._weights = ids, weights


def _parts(token: Token) -> tuple[int, ...]:
    return token if isinstance(token, tuple) else (token,)


def _closed(ids: Sequence[int], weights: Sequence[float], tokenizer: TokenizerLike) -> Chunk:
    """Return a chunk with marks, padded after the end mark."""
    missing = CHUNK_TOKENS - len(ids)
    return Chunk(
        (tokenizer.bos, *ids, tokenizer.eos, *[tokenizer.pad] * missing),
        (1.0, *weights, *[1.0] * (missing + 1)),
    )
