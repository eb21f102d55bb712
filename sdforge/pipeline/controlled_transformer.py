"""A transformer with ControlNets beside it (Flux, Qwen-Image, SD 3): what they add to its blocks.

It takes the transformer's place as `controlled.py` takes a U-Net's. A network of few blocks adds
the same behind several of the transformer's, evenly spread; that is done here and not in there, so
that what networks of different depths say can be added up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.models.adapters.transformer_controlnet import is_flux_control, is_sd3_control
from sdforge.models.flux_call import PATCH, padded_to_patches, patches
from sdforge.pipeline.placed import PlacedUnit, rows_of

# Blocks of the transformer, and what it calls what is added behind them.
_ADDED = {
    "transformer_blocks": "controlnet_block_samples",
    "single_transformer_blocks": "controlnet_single_block_samples",
}


class ControlledTransformer(nn.Module):
    """Has the transformer's signature; that is not its child, so that nothing walks into it."""

    def __init__(
        self, module: nn.Module, units: Sequence[tuple[PlacedUnit, list[int] | None]]
    ) -> None:
        """Take the transformer and the units that act, each with its rows (None: all)."""
        super().__init__()
        self._in_a_tuple = (module,)
        self._units = units

    @property
    def pos_embed(self) -> Any:
        """The transformer's own, whose size whoever calls it asks for."""
        return self._in_a_tuple[0].pos_embed

    def forward(self, **inputs: Any) -> Any:
        """Run the units on the transformer's inputs, add up what they say, and run it."""
        (module,) = self._in_a_tuple
        if is_sd3_control(self._units[0][0].network):
            return module(**inputs, block_controlnet_hidden_states=self._said_sd3(inputs))
        added: dict[str, list[Tensor]] = {}
        for placed, rows in self._units:
            for blocks, said in zip(_ADDED, _said(placed, rows, inputs), strict=False):
                if said:
                    spread = _spread(said, len(getattr(module, blocks)))
                    before = added.get(_ADDED[blocks])
                    added[_ADDED[blocks]] = _sum(before, spread) if before else spread
        return module(**inputs, **added)

    def _said_sd3(self, inputs: dict[str, Any]) -> list[Tensor]:
        """Return what is added behind each of SD 3's blocks."""
        transformer: Any = self._in_a_tuple[0]
        depth = len(transformer.transformer_blocks)
        found: list[Tensor] = []
        for placed, rows in self._units:
            spread = _spread_by_share(_said_sd3(placed, rows, inputs), depth)
            found = _sum(found, spread) if found else spread
        return found


def _said(placed: PlacedUnit, rows: list[int] | None, inputs: dict[str, Any]) -> list[list[Tensor]]:
    """Return what a unit adds behind blocks of each kind, weighted, for all rows and patches."""
    seen = inputs["hidden_states"]
    hint = patches(padded_to_patches(placed.hint.to(seen)))
    count, channels = hint.shape[1:]
    acting = list(range(len(seen))) if rows is None else rows
    # Behind the drawn patches may lie those of a picture to refer to; within them, a mask's.
    drawn = seen[acting, :count, :channels]
    told = _told_flux if is_flux_control(placed.network) else _told_qwen_image
    found = placed.network(
        hidden_states=drawn,
        controlnet_cond=hint.expand(len(acting), -1, -1),
        encoder_hidden_states=inputs["encoder_hidden_states"][acting],
        timestep=inputs["timestep"][acting],
        return_dict=False,
        **told(placed, acting, count, inputs),
    )
    parts = found if isinstance(found, tuple) else (found,)
    weight = placed.unit.weight * _mask(placed, placed.hint.shape[-2:], drawn)
    return [[_placed(one * weight, acting, seen) for one in part or ()] for part in parts]


def _said_sd3(placed: PlacedUnit, rows: list[int] | None, inputs: dict[str, Any]) -> list[Tensor]:
    """Return what a unit of SD 3 adds behind each of its blocks; latents are patched in there."""
    seen = inputs["hidden_states"]
    acting = list(range(len(seen))) if rows is None else rows
    hint = padded_to_patches(placed.hint.to(seen))
    pooled = inputs["pooled_projections"][acting]
    (found,) = placed.network(
        hidden_states=seen[acting],
        controlnet_cond=hint.expand(len(acting), -1, -1, -1),
        encoder_hidden_states=inputs["encoder_hidden_states"][acting],
        # InstantX' and their kin were trained without it.
        pooled_projections=torch.zeros_like(pooled),
        timestep=inputs["timestep"][acting],
        return_dict=False,
    )
    weight = placed.unit.weight * _mask(placed, placed.hint.shape[-2:], seen)
    return [rows_of(one * weight, acting, len(seen)) for one in found]


def _spread_by_share(said: Sequence[Tensor], depth: int) -> list[Tensor]:
    """Return one for each of SD 3's blocks, as diffusers' transformer spreads them."""
    share = depth / len(said)
    return [said[int(block / share)] for block in range(depth)]


def _told_flux(
    placed: PlacedUnit, acting: list[int], count: int, inputs: dict[str, Any]
) -> dict[str, Any]:
    config: Any = placed.network.config
    told = {
        "pooled_projections": inputs["pooled_projections"][acting],
        "img_ids": inputs["img_ids"][:count],
        "txt_ids": inputs["txt_ids"],
        "guidance": inputs["guidance"][acting] if config["guidance_embeds"] else None,
    }
    if placed.kind is not None:
        kinds = torch.full((len(acting), 1), placed.kind, device=inputs["hidden_states"].device)
        told["controlnet_mode"] = kinds
    return told


def _told_qwen_image(
    placed: PlacedUnit, acting: list[int], count: int, inputs: dict[str, Any]
) -> dict[str, Any]:
    # The drawn picture's shape comes first.
    return {"img_shapes": [inputs["img_shapes"][row][:1] for row in acting]}


def _mask(placed: PlacedUnit, size: Sequence[int], like: Tensor) -> Tensor:
    """Return how much a unit acts at each patch, (1, patches, 1)."""
    if placed.mask is None:
        return like.new_ones(1, 1, 1)
    sides = [math.ceil(side / PATCH) for side in size]
    return F.interpolate(placed.mask.to(like), size=sides, mode="area").view(1, -1, 1)


def _sum(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(first, second, strict=True)]


def _placed(said: Tensor, rows: list[int], seen: Tensor) -> Tensor:
    """Return as many rows and patches as the transformer has; the others get nothing."""
    if len(rows) == len(seen) and said.shape[1] == seen.shape[1]:
        return said
    whole = said.new_zeros(len(seen), seen.shape[1], said.shape[2])
    whole[rows, : said.shape[1]] = said
    return whole


def _spread(said: Sequence[Tensor], depth: int) -> list[Tensor]:
    """Return one for each of the transformer's blocks, as diffusers spreads them."""
    interval = math.ceil(depth / len(said))
    return [said[block // interval] for block in range(depth)]
