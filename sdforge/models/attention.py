"""Attention inside U-Nets, without diffusers' way around it.

diffusers' `Attention.forward` inspects a signature and walks through a processor at every call,
some thirty calls a step: an eighth of a small model's forward. `DirectAttention` does the same
arithmetic, to the bit, over the same weights and names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# Takes queries, keys and values, (rows, heads, places, width of a head), and what is added to the
# scores; returns one answer for each query.
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def attend_by_torch(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attend by the kernel that torch chooses."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class DirectAttention(nn.Module):
    """Multi-head attention over the projections of a diffusers `Attention`.

    `attend` may be set to another kernel, see `attention_kernels.py`.
    """

    attend: Attend = staticmethod(attend_by_torch)

    def __init__(self, source: Any) -> None:
        """Take over the weights of `source`, which must be plain (see `is_plain`)."""
        super().__init__()
        self.heads: int = source.heads
        self.to_q: nn.Module = source.to_q
        self.to_k: nn.Module = source.to_k
        self.to_v: nn.Module = source.to_v
        # A list of the projection and a dropout that does nothing here: files name it `to_out.0`.
        self.to_out: nn.ModuleList = source.to_out

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from `hidden_states` (rows, places, width) to the encoder's, or to themselves.

        `attention_mask` is added to the scores: (rows, heads, places, places attended to).
        """
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = self._split(self.to_q(hidden_states))
        key = self._split(self.to_k(context))
        value = self._split(self.to_v(context))
        seen = self.attend(query, key, value, attention_mask)
        joined: torch.Tensor = self.to_out[0](seen.transpose(1, 2).flatten(2))
        return joined

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        """Return (rows, heads, places, width of a head)."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def is_plain(attention: Any) -> bool:
    """Tell whether a diffusers `Attention` does nothing but project, attend and project back."""
    extras = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
    return (
        not any(getattr(attention, name, None) for name in extras)
        and attention.scale_qk
        and not attention.residual_connection
        and attention.rescale_output_factor == 1.0
    )


def use_direct_attention(network: nn.Module) -> None:
    """Replace the plain attentions of a network's transformer blocks, in place."""
    from diffusers.models.attention import BasicTransformerBlock

    for block in network.modules():
        if isinstance(block, BasicTransformerBlock):
            for name in ("attn1", "attn2"):
                attention = getattr(block, name)
                if attention is not None and is_plain(attention):
                    setattr(block, name, DirectAttention(attention))
