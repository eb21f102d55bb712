"""T5's encoder (version 1.1), with the parameter names of the files.

Written out for the same reasons as CLIP (docs/decisions/0012), and because it has to survive half
precision: the sum that runs through all layers stays in fp32, and what goes into a block's last
matrix is scaled down by a power of two, which changes no digit but the exponent. Raffel et al.
2020, arXiv:1910.10683; gated feed-forward after Shazeer 2020, arXiv:2002.05202.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

_EPSILON = 1e-6
_MOST_DISTANCE = 128
# T5-XXL's feed-forward reaches some hundred thousand; half precision ends at 65504.
_SCALE = 32.0


class T5Encoder(nn.Module):
    """Token ids (rows, tokens) to states (rows, tokens, width), fp32."""

    def __init__(
        self, *, vocabulary: int, width: int, inner: int, hidden: int, layers: int, heads: int,
        buckets: int,
    ) -> None:  # fmt: skip
        """Take the sizes.

        Args:
            vocabulary: rows of the token table.
            width: of states.
            inner: width of all heads together.
            hidden: width inside the feed-forward part.
            layers: blocks.
            heads: of each attention.
            buckets: of distances between tokens.
        """
        super().__init__()
        self.config = {"heads": heads}
        self.width = width
        # Not initialised: drawing normal numbers on the meta device imports torch's compiler.
        self.shared = nn.Embedding.from_pretrained(torch.empty(vocabulary, width))
        self.encoder = _Stack(
            [
                _Block(width, inner, hidden, heads, buckets if number == 0 else 0)
                for number in range(layers)
            ],
            width,
        )

    def forward(self, ids: torch.Tensor, seen: int | None = None) -> torch.Tensor:
        """Return the normalised states of all tokens.

        The first `seen` of them are attended to; without it all are, padding like any other.
        """
        return self.encoder(self.shared(ids).float(), seen)


class _Stack(nn.Module):
    def __init__(self, blocks: list[nn.Module], width: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.final_layer_norm = _Norm(width)

    def forward(self, states: torch.Tensor, seen: int | None) -> torch.Tensor:
        bias = None
        for number, block in enumerate(self.block):
            # The first one makes the bias of all.
            states, bias = block(states, bias, None if number else seen)
        return self.final_layer_norm(states).float()


class _Norm(nn.Module):
    """Scales to unit mean square; neither mean nor bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + _EPSILON)
        return self.weight * (states * scale).to(self.weight.dtype)


class _Block(nn.Module):
    def __init__(self, width: int, inner: int, hidden: int, heads: int, buckets: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [_AttentionLayer(width, inner, heads, buckets), _ForwardLayer(width, hidden)]
        )

    def forward(
        self, states: torch.Tensor, bias: torch.Tensor | None, seen: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states, bias = self.layer[0](states, bias, seen)
        return self.layer[1](states), bias


class _AttentionLayer(nn.Module):
    def __init__(self, width: int, inner: int, heads: int, buckets: int) -> None:
        super().__init__()
        self.SelfAttention = _Attention(width, inner, heads, buckets)
        self.layer_norm = _Norm(width)

    def forward(
        self, states: torch.Tensor, bias: torch.Tensor | None, seen: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        added, bias = self.SelfAttention(self.layer_norm(states), bias, seen)
        return states + added.float(), bias


class _Attention(nn.Module):
    """Attention without scaling; the first block's knows how distances count in all of them."""

    def __init__(self, width: int, inner: int, heads: int, buckets: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, inner, bias=False)
        self.k = nn.Linear(width, inner, bias=False)
        self.v = nn.Linear(width, inner, bias=False)
        self.o = nn.Linear(inner, width, bias=False)
        if buckets:
            self.relative_attention_bias = nn.Embedding.from_pretrained(torch.empty(buckets, heads))

    def forward(
        self, states: torch.Tensor, bias: torch.Tensor | None, seen: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value = (
            projection(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q, self.k, self.v)
        )
        if bias is None:
            table = self.relative_attention_bias
            places = _buckets(states.shape[1], table.num_embeddings, states.device)
            bias = table(places).permute(2, 0, 1).unsqueeze(0)
            if seen is not None:
                bias[..., seen:] = -math.inf
        answer = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype), scale=1.0
        )
        return self.o(answer.transpose(1, 2).flatten(2)), bias


class _ForwardLayer(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.DenseReluDense = _Gated(width, hidden)
        self.layer_norm = _Norm(width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states + self.DenseReluDense(self.layer_norm(states))


class _Gated(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(width, hidden, bias=False)
        self.wi_1 = nn.Linear(width, hidden, bias=False)
        self.wo = nn.Linear(hidden, width, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        gate = F.gelu(self.wi_0(states), approximate="tanh")
        return self.wo(gate * (self.wi_1(states) / _SCALE)).float() * _SCALE


def _buckets(tokens: int, count: int, device: torch.device) -> torch.Tensor:
    """Return which bucket the distance between each two tokens falls into: (tokens, tokens).

    Half of them are for tokens ahead. Of each half, one half are for single distances, the others
    grow logarithmically up to 128.
    """
    places = torch.arange(tokens, device=device)
    distance = places[None, :] - places[:, None]
    half = count // 2
    exact = half // 2
    size = distance.abs()
    far = exact + (
        (size.float() / exact).log() / math.log(_MOST_DISTANCE / exact) * (half - exact)
    ).clamp(min=0).to(torch.long)
    near = torch.where(size < exact, size, far.clamp(max=half - 1))
    return near + (distance > 0).long() * half
