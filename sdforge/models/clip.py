"""CLIP's text transformer, with the parameter names of the files.

Written out instead of taken from transformers, whose import makes the first load a second slower,
for a network of forty lines (docs/decisions/0012); a test holds the two against each other.
Radford et al. 2021, arXiv:2103.00020. OpenCLIP's text encoders are the same with the exact GELU.
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
        activation: str = "quick_gelu",
        projection: tuple[int, ...] = (),
        is_projection_turned: bool = False,
    ) -> None:
        """Take the sizes, by the names of transformers' configuration.

        Args:
            vocab_size: words.
            hidden_size: width of states.
            intermediate_size: width inside the MLPs.
            num_hidden_layers: layers.
            num_attention_heads: heads of each.
            max_position_embeddings: most tokens.
            activation: "quick_gelu" or "gelu".
            projection: shape of the matrix that the pooled text passes, () for none.
            is_projection_turned: it is (in, out), as OpenCLIP keeps it, instead of (out, in).
        """
        super().__init__()
        # What shapes of weights do not tell.
        self.config = {"activation": activation, "is_projection_turned": is_projection_turned}
        self.width = hidden_size
        self.embeddings = _Embeddings(vocab_size, max_position_embeddings, hidden_size)
        self.encoder = _Encoder(
            ClipLayer(
                hidden_size,
                intermediate_size,
                num_attention_heads,
                is_quick=activation == "quick_gelu",
                is_causal=True,
            )
            for _ in range(num_hidden_layers)
        )
        self.final_layer_norm = nn.LayerNorm(hidden_size)
        if projection:
            self.text_projection = _Projection(projection, is_turned=is_projection_turned)

    @property
    def layer_count(self) -> int:
        """How many layers there are to stop after."""
        return len(self.encoder.layers)

    @property
    def vocabulary(self) -> int:
        """How many ids the network knows by itself."""
        return self.embeddings.token_embedding.num_embeddings

    def forward(
        self,
        ids: torch.Tensor,
        layers: int,
        extra: torch.Tensor | None = None,
        *,
        normed: bool = True,
        end: int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the states after the first `layers` layers, and the pooled text if asked for.

        Args:
            ids: of tokens; those from `vocabulary` on are rows of `extra`.
            layers: how many to run.
            extra: vectors that stand for tokens, (count, width).
            normed: whether the states pass the final normalisation.
            end: id of the end mark; with it the last layer's state at its first place, normalised
                and projected, is returned as well: (rows, width of the projection).
        """
        states = self.embeddings(ids, extra)
        chosen = states
        count = layers if end is None else self.layer_count
        for number, layer in enumerate(self.encoder.layers[:count], start=1):
            states = layer(states)
            if number == layers:
                chosen = states
        kept = self.final_layer_norm(chosen) if normed else chosen
        if end is None:
            return kept
        places = (ids == end).int().argmax(dim=1)
        pooled = self.final_layer_norm(states)[torch.arange(len(ids), device=ids.device), places]
        return kept, self.text_projection(pooled) if hasattr(self, "text_projection") else pooled


class _Projection(nn.Module):
    def __init__(self, shape: tuple[int, ...], *, is_turned: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.is_turned = is_turned

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return pooled @ (self.weight if self.is_turned else self.weight.T)


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
    def __init__(self, layers: Iterable[ClipLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class ClipLayer(nn.Module):
    """A layer of CLIP's transformers, of texts (causal) and of pictures; states keep their shape.

    `is_quick` is OpenAI's approximation of GELU, which its weights were trained with.
    """

    def __init__(
        self, width: int, inner: int, heads: int, *, is_quick: bool, is_causal: bool
    ) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width)
        self.self_attn = _Attention(width, heads, is_causal=is_causal)
        self.layer_norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width, inner, is_quick=is_quick)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return (rows, places, width) states one layer on."""
        states = states + self.self_attn(self.layer_norm1(states))
        return states + self.mlp(self.layer_norm2(states))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, is_causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.is_causal = is_causal
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            projection(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int, *, is_quick: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.is_quick = is_quick

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        hidden = self.fc1(states)
        if not self.is_quick:
            return self.fc2(F.gelu(hidden))
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))
