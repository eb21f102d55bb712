"""The embeddings that prompts may use with a loaded model: names to ids, ids to vectors.

Ids begin behind the vocabulary. Vectors are read when a prompt first needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.adapters.embedding import Embedding
from sdforge.models.adapters.embedding_library import PARTS, EmbeddingTokenizer, TokenizerLike


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One embedding of `count` vectors.

    `key` is what it is equal by, `read` returns it, `short_hash` names it in infotexts.
    """

    name: str
    count: int
    key: str
    read: Callable[[], Embedding]
    short_hash: Callable[[], str]


class EmbeddingTable:
    """Embeddings by name, and a tokenizer that knows them."""

    def __init__(self, base: TokenizerLike, entries: Sequence[Entry]) -> None:
        """Take the tokenizer of the model and what it may use; of equal names the last counts."""
        by_name = {entry.name.casefold(): entry for entry in entries}
        self.entries: Mapping[str, Entry] = {entry.name: entry for entry in by_name.values()}
        names = ((entry.name, entry.count) for entry in self.entries.values())
        self.tokenizer = EmbeddingTokenizer(base, names, first_id=base.vocabulary)
        self.key = tuple((entry.name, entry.key) for entry in self.entries.values())
        self._read: dict[str, Embedding] = {}

    def used(self, ids: Sequence[int]) -> list[str]:
        """Return the names that ids belong to, each once."""
        wanted = set(ids)
        return [name for name, places in self.tokenizer.places.items() if places[0] in wanted]

    def vectors(self, ids: Sequence[int], encoder: int, encoders: int) -> torch.Tensor:
        """Return the vectors of ids behind the vocabulary: (ids, width), fp32.

        Args:
            ids: any of the tokenizer's.
            encoder: which text encoder of the model they are for, from 0.
            encoders: how many it has.

        Raises:
            ModelError: a file changed since it was listed and cannot be used any more.
        """
        return torch.stack([self._vector(number, PARTS[encoders][encoder]) for number in ids])

    def _vector(self, number: int, parts: Sequence[str]) -> torch.Tensor:
        places = self.tokenizer.places
        name = next(name for name, row in places.items() if number in row)
        if name not in self._read:
            found = self.entries[name].read()
            if found.count != len(places[name]):
                raise UnsupportedCheckpoint(f"the embedding {name} changed; refresh embeddings")
            self._read[name] = found
        vectors = self._read[name].vectors
        table = next(vectors[part] for part in parts if part in vectors)
        return table[number - places[name][0]].float()
