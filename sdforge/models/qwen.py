"""Qwen's text transformer (2.5 and 3) and Mistral's, with the parameter names of the files.

Z-Image takes the states that go into the last layer, so that layer and its norm are neither loaded
nor run; Qwen-Image takes what comes out in the end, Flux.2 the states after three of the layers,
side by side. The words' output table is never loaded. Qwen3 normalises queries and keys, Qwen2.5
adds biases to them, Mistral does neither. The sum through all layers stays in fp32: in half
precision it would overflow. Yang et al. 2025, arXiv:2505.09388; Bai et al. 2025, arXiv:2502.13923.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class QwenText(nn.Module):
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
        base: float,
        epsilon: float,
        is_normed: bool = True,
        is_biased: bool = False,
        in_turns: bool = False,
        is_whole: bool = False,
        taps: tuple[int, ...] = (),
    ) -> None:
        """Take the sizes.

        Args:
            vocabulary: rows of the token table.
            width: of states.
            hidden: width inside the feed-forward part.
            layers: to run: one less than the file has, or all.
            heads: of queries.
            pairs: heads of keys and values, each shared by several of the queries.
            head: width of a head.
            base: of the rotations by place.
            epsilon: of the norms.
            is_normed: queries and keys pass norms, as in Qwen3.
            is_biased: queries, keys and values have biases, as in Qwen2.5.
            in_turns: queries and keys have the numbers of a head's two halves in turns, as in files
                that llama.cpp made of Mistral.
            is_whole: the states pass the last norm.
            taps: numbers of layers whose states are returned side by side; () for the last.
        """
        super().__init__()
        self.config = {"heads": heads, "base": base, "is_whole": is_whole, "taps": taps}
        self.width = width * max(len(taps), 1)
        attention = _Sizes(heads, pairs, head, base, epsilon, is_normed, is_biased, in_turns)
        self.model = _Model(vocabulary, width, hidden, layers, attention, taps)
        if is_whole:
            self.model.norm = Norm(width, epsilon)

    def forward(
        self,
        ids: torch.Tensor,
        real: torch.Tensor | None = None,
        *,
        shown: Shown | None = None,
    ) -> torch.Tensor:
        """Return the states of all tokens; each sees those before it.

        Args:
            ids: of the tokens.
            real: (tokens,), False for padding, which no token sees; None where there is none.
            shown: pictures among the words; None where there are none.
        """
        return self.model(ids, real, shown)


class Shown(NamedTuple):
    """Pictures among words: `states` (count, width) stand for the tokens that `marks` are True at.

    `places` (3, tokens) are time, row and column of each token, the same number for a word.
    """

    marks: torch.Tensor
    states: torch.Tensor
    places: torch.Tensor


class _Sizes(NamedTuple):
    """Of an attention; as `QwenText` takes them."""

    heads: int
    pairs: int
    head: int
    base: float
    epsilon: float
    is_normed: bool
    is_biased: bool
    in_turns: bool


class _Model(nn.Module):
    def __init__(
        self,
        vocabulary: int,
        width: int,
        hidden: int,
        layers: int,
        attention: _Sizes,
        taps: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.taps = taps
        self.head, self.base = attention.head, attention.base
        # Not initialised: drawing normal numbers on the meta device imports torch's compiler.
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(vocabulary, width))
        self.layers = nn.ModuleList(_Layer(width, hidden, attention) for _ in range(layers))

    def forward(
        self, ids: torch.Tensor, real: torch.Tensor | None, shown: Shown | None
    ) -> torch.Tensor:
        states = self.embed_tokens(ids).float()
        if shown is not None:
            states[:, shown.marks] = shown.states.to(states)
        turns = self._turns(ids, shown)
        mask = None if real is None else seen_before(real)
        taken = []
        for number, layer in enumerate(self.layers, start=1):
            states = layer(states, mask, turns)
            taken += [states] * (number in self.taps)
        if taken:
            return torch.cat(taken, dim=-1)
        # Qwen-Image's readers have their last norm, Z-Image's have none.
        last = self._modules.get("norm")
        return states if last is None else last(states).float()

    def _turns(self, ids: torch.Tensor, shown: Shown | None) -> tuple[torch.Tensor, torch.Tensor]:
        head, base = self.head, self.base
        if shown is None:
            return rotations(ids.shape[1], head, base, ids.device)
        return rotations_among_pictures(shown.places, head, base)


class Norm(nn.Module):
    """Scales to unit mean square; no mean, no bias."""

    def __init__(self, width: int, epsilon: float) -> None:
        """Take the width, and what keeps the scale of zeros finite."""
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the scaled states in the type of the weights."""
        wide = states.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (wide * scale).to(self.weight.dtype)


class _Layer(nn.Module):
    def __init__(self, width: int, hidden: int, attention: _Sizes) -> None:
        super().__init__()
        self.input_layernorm = Norm(width, attention.epsilon)
        self.self_attn = _Attention(width, attention)
        self.post_attention_layernorm = Norm(width, attention.epsilon)
        self.mlp = Gated(width, hidden)

    def forward(
        self,
        states: torch.Tensor,
        mask: torch.Tensor | None,
        turns: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        states = states + self.self_attn(self.input_layernorm(states), mask, turns).float()
        return states + self.mlp(self.post_attention_layernorm(states)).float()


class _Attention(nn.Module):
    def __init__(self, width: int, sizes: _Sizes) -> None:
        super().__init__()
        heads, pairs, head, _, epsilon, is_normed, is_biased, self.in_turns = sizes
        self.heads, self.pairs, self.head = heads, pairs, head
        self.q_proj = nn.Linear(width, heads * head, bias=is_biased)
        self.k_proj = nn.Linear(width, pairs * head, bias=is_biased)
        self.v_proj = nn.Linear(width, pairs * head, bias=is_biased)
        self.o_proj = nn.Linear(heads * head, width, bias=False)
        self.q_norm = Norm(head, epsilon) if is_normed else nn.Identity()
        self.k_norm = Norm(head, epsilon) if is_normed else nn.Identity()

    def forward(
        self,
        states: torch.Tensor,
        mask: torch.Tensor | None,
        turns: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        query = self.q_norm(self.q_proj(states).unflatten(-1, (self.heads, self.head)))
        key = self.k_norm(self.k_proj(states).unflatten(-1, (self.pairs, self.head)))
        value = self.v_proj(states).unflatten(-1, (self.pairs, self.head))
        if self.in_turns:
            query, key = (
                one.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2) for one in (query, key)
            )
        both = [turned(one.transpose(1, 2), *turns) for one in (query, key)]
        share = self.heads // self.pairs
        keys, values = (
            one.repeat_interleave(share, dim=1) for one in (both[1], value.transpose(1, 2))
        )
        if mask is None:
            seen = F.scaled_dot_product_attention(both[0], keys, values, is_causal=True)
        else:
            # Padding in front sees nothing, which not every kernel takes for zero.
            sees = mask.any(dim=-1)[:, None]
            seen = F.scaled_dot_product_attention(both[0], keys, values, attn_mask=mask | ~sees)
            seen = seen * sees
        return self.o_proj(seen.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """The feed-forward part: one half decides how much of the other passes."""

    def __init__(self, width: int, hidden: int, *, bias: bool = False) -> None:
        """Take the widths outside and inside."""
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=bias)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return states of the width outside."""
        return self.down_proj(F.silu(self.gate_proj(states)) * self.up_proj(states))


def seen_before(real: torch.Tensor) -> torch.Tensor:
    """Return which tokens (columns) each token (row) sees: those up to it that are no padding."""
    return torch.ones_like(real).expand(len(real), -1).tril() & real


def rotations(
    tokens: int, head: int, base: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine of each place's angles, (tokens, head)."""
    steps = torch.arange(0, head, 2, dtype=torch.float32, device=device) / head
    angles = torch.arange(tokens, device=device)[:, None].float() / base ** steps[None, :]
    both = torch.cat([angles, angles], dim=-1)
    return both.cos(), both.sin()


def rotations_among_pictures(
    places: torch.Tensor, head: int, base: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same where tokens have three places each, (3, tokens).

    A quarter of the angles follows from the first place, three eighths each from the others
    (Wang et al. 2024, arXiv:2409.12191, section 2.1).
    """
    steps = torch.arange(0, head, 2, dtype=torch.float32, device=places.device) / head
    angles = places[..., None].float() / base ** steps[None, :]
    half = head // 2
    parts = angles.split([half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8], dim=-1)
    angles = torch.cat([part[axis] for axis, part in enumerate(parts)], dim=-1)
    both = torch.cat([angles, angles], dim=-1)
    return both.cos(), both.sin()


def turned(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotate each head's two halves against each other by the place's angles."""
    first, second = states.chunk(2, dim=-1)
    crossed = torch.cat([-second, first], dim=-1)
    return states * cosine.to(states.dtype) + crossed * sine.to(states.dtype)
