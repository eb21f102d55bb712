"""Gemma 2's text transformer, with the parameter names of the files.

Lumina 2 takes the states that go into the last layer, so that layer and the norm behind it are
neither loaded nor run. Norms count from one, each half of a layer has one before and one behind,
and scores of attention are held below a cap. The sum through all layers stays in fp32: in half
precision it would overflow. Gemma Team 2024, arXiv:2408.00118.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sdforge.models.qwen import rotations, turned

_EPSILON = 1e-6
_ROTATION_BASE = 10_000.0
_CAP = 50.0


class GemmaText(nn.Module):
    """Token ids (rows, tokens) to states (rows, tokens, width), fp32."""

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        hidden: int,
        layers: int,
        heads: int,
        pairs: int,
        head: int,
    ) -> None:
        """Take the sizes.

        Args:
            vocabulary: rows of the token table.
            width: of states.
            hidden: width inside the feed-forward part.
            layers: to run: one less than the file has.
            heads: of queries.
            pairs: heads of keys and values, each shared by several of the queries.
            head: width of a head.
        """
        super().__init__()
        self.config = {"heads": heads, "head": head}
        self.width = width
        self.model = _Model(vocabulary, width, hidden, layers, (heads, pairs, head))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the states of all tokens; each sees those before it."""
        return self.model(ids)


class _Model(nn.Module):
    def __init__(
        self, vocabulary: int, width: int, hidden: int, layers: int, heads: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.scale = width**0.5
        # Not initialised: drawing normal numbers on the meta device imports torch's compiler.
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(vocabulary, width))
        self.layers = nn.ModuleList(_Layer(width, hidden, heads) for _ in range(layers))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.embed_tokens(ids).float() * self.scale
        for layer in self.layers:
            states = layer(states)
        return states


class _Norm(nn.Module):
    """Scales to unit mean square, then by one more than its weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        wide = states.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + _EPSILON)
        return (wide * scale * (1 + self.weight.float())).to(self.weight.dtype)


class _Layer(nn.Module):
    def __init__(self, width: int, hidden: int, heads: tuple[int, int, int]) -> None:
        super().__init__()
        self.input_layernorm = _Norm(width)
        self.self_attn = _Attention(width, *heads)
        self.post_attention_layernorm = _Norm(width)
        self.pre_feedforward_layernorm = _Norm(width)
        self.mlp = _Gated(width, hidden)
        self.post_feedforward_layernorm = _Norm(width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        seen = self.self_attn(self.input_layernorm(states))
        states = states + self.post_attention_layernorm(seen).float()
        thought = self.mlp(self.pre_feedforward_layernorm(states))
        return states + self.post_feedforward_layernorm(thought).float()


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, pairs: int, head: int) -> None:
        super().__init__()
        self.heads, self.pairs, self.head = heads, pairs, head
        self.q_proj = nn.Linear(width, heads * head, bias=False)
        self.k_proj = nn.Linear(width, pairs * head, bias=False)
        self.v_proj = nn.Linear(width, pairs * head, bias=False)
        self.o_proj = nn.Linear(heads * head, width, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        query = self.q_proj(states).unflatten(-1, (self.heads, self.head)).transpose(1, 2)
        key = self.k_proj(states).unflatten(-1, (self.pairs, self.head)).transpose(1, 2)
        value = self.v_proj(states).unflatten(-1, (self.pairs, self.head)).transpose(1, 2)
        cosine, sine = rotations(states.shape[1], self.head, _ROTATION_BASE, states.device)
        share = self.heads // self.pairs
        keys = turned(key, cosine, sine).repeat_interleave(share, dim=1)
        scores = turned(query, cosine, sine) @ keys.transpose(2, 3) * self.head**-0.5
        scores = _CAP * torch.tanh(scores / _CAP)
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        shares = scores.float().masked_fill(later, -torch.inf).softmax(dim=-1).to(value.dtype)
        seen = shares @ value.repeat_interleave(share, dim=1)
        return self.o_proj(seen.transpose(1, 2).flatten(2))


class _Gated(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        opened = F.gelu(self.gate_proj(states), approximate="tanh")
        return self.down_proj(opened * self.up_proj(states))
