"""CLIP's text transformer, with the parameter names of the files.

Written out instead of taken from transformers, whose import makes the first load a second slower,
for a network of forty lines (docs/decisions/0012); a test holds the two against each other.
Radford et al. 2021, arXiv:2103.00020.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F


class ClipTextModel(nn.Module):
    """Token ids (rows, tokens) to states (rows, tokens, width)."""

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        intermediate_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        max_position_embeddings: int,
    ) -> None:
        """Take the sizes, by the names of transformers' configuration."""
        super().__init__()
        self.width = hidden_size
        self.embeddings = _Embeddings(vocab_size, max_position_embeddings, hidden_size)
        self.encoder = _Encoder(
            _Layer(hidden_size, intermediate_size, num_attention_heads)
            for _ in range(num_hidden_layers)
        )
        self.final_layer_norm = nn.LayerNorm(hidden_size)

    @property
    def layer_count(self) -> int:
        """How many layers there are to stop after."""
        return len(self.encoder.layers)

    @property
    def vocabulary(self) -> int:
        """How many ids the network knows by itself."""
        return self.embeddings.token_embedding.num_embeddings

    def forward(
        self, ids: torch.Tensor, layers: int, extra: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the normalised states after the first `layers` layers.

        Args:
            ids: of tokens; those from `vocabulary` on are rows of `extra`.
            layers: how many to run.
            extra: vectors that stand for tokens, (count, width).
        """
        states = self.embeddings(ids, extra)
        for layer in self.encoder.layers[:layers]:
            states = layer(states)
        return self.final_layer_norm(states)


class _Embeddings(nn.Module):
    def __init__(self, vocabulary: int, places: int, width: int) -> None:
        super().__init__()
        # Not initialised: drawing normal numbers on the meta device imports torch's compiler.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(vocabulary, width))
        self.position_embedding = nn.Embedding.from_pretrained(torch.empty(places, width))

    def forward(self, ids: torch.Tensor, extra: torch.Tensor | None) -> torch.Tensor:
        # Called, not read: a table may be on its way to the device until it is called.
        if extra is None:
            vectors = self.token_embedding(ids)
        else:
            first = self.token_embedding.num_embeddings
            vectors = self.token_embedding(ids.clamp_max(first - 1))
            is_extra = ids >= first
            vectors[is_extra] = extra.to(vectors.dtype)[ids[is_extra] - first]
        places = torch.arange(ids.shape[1], device=ids.device)
        return vectors + self.position_embedding(places)


class _Encoder(nn.Module):
    def __init__(self, layers: Iterable[_Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class _Layer(nn.Module):
    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width)
        self.self_attn = _CausalAttention(width, heads)
        self.layer_norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width, inner)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = states + self.self_attn(self.layer_norm1(states))
        return states + self.mlp(self.layer_norm2(states))


class _CausalAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            projection(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        hidden = self.fc1(states)
        # OpenAI's approximation of GELU, which its weights were trained with.
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))
