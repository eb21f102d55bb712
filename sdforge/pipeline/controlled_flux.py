"""A Flux transformer with ControlNets beside it: what they add behind each of its blocks.

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

from sdforge.models.adapters.flux_controlnet import is_flux_control
from sdforge.models.flux_call import PATCH, padded_to_patches, patches
from sdforge.pipeline.placed import PlacedUnit

__all__ = ["ControlledFlux", "is_flux_control"]


class ControlledFlux(nn.Module):
    """Has the transformer's signature; that is not its child, so that nothing walks into it."""

    def __init__(
        self, module: nn.Module, units: Sequence[tuple[PlacedUnit, list[int] | None]]
    ) -> None:
        """Take the transformer and the units that act, each with its rows (None: all)."""
        super().__init__()
        self._in_a_tuple = (module,)
        self._units = units

    def forward(self, **inputs: Any) -> Any:
        """Run the units on the transformer's inputs, add up what they say, and run it."""
        (module,) = self._in_a_tuple
        depths = [len(getattr(module, name)) for name in _BLOCKS]
        added: list[list[Tensor] | None] = [None, None]
        for placed, rows in self._units:
            for number, said in enumerate(_said(placed, rows, inputs)):
                if said:
                    spread = _spread(said, depths[number])
                    before = added[number]
                    added[number] = (
                        spread
                        if before is None
                        else [one + other for one, other in zip(before, spread, strict=True)]
                    )
        return module(
            **inputs,
            controlnet_block_samples=added[0],
            controlnet_single_block_samples=added[1],
        )


_BLOCKS = ("transformer_blocks", "single_transformer_blocks")
_BY_ROW = ("encoder_hidden_states", "pooled_projections", "timestep")


def _said(
    placed: PlacedUnit, rows: list[int] | None, inputs: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what a unit adds behind blocks of either kind, weighted, for all rows and patches."""
    network: Any = placed.network
    seen = inputs["hidden_states"]
    hint = patches(padded_to_patches(placed.hint.to(seen)))
    count, channels = hint.shape[1:]
    acting = list(range(len(seen))) if rows is None else rows
    # Behind the drawn patches may lie those of a picture to refer to; within them, a mask's.
    drawn = seen[acting, :count, :channels]
    guidance = inputs["guidance"]
    mode = {}
    if placed.kind is not None:
        kinds = torch.full((len(acting), 1), placed.kind, device=seen.device)
        mode = {"controlnet_mode": kinds}
    found = network(
        hidden_states=drawn,
        controlnet_cond=hint.expand(len(acting), -1, -1),
        img_ids=inputs["img_ids"][:count],
        txt_ids=inputs["txt_ids"],
        guidance=guidance[acting] if network.config["guidance_embeds"] else None,
        return_dict=False,
        **{name: inputs[name][acting] for name in _BY_ROW},
        **mode,
    )
    size = placed.hint.shape[-2:]
    weight = placed.unit.weight * _mask(placed, size, drawn)
    doubles, singles = (
        [_placed(one * weight, acting, seen) for one in part or ()] for part in found
    )
    return doubles, singles


def _mask(placed: PlacedUnit, size: Sequence[int], like: Tensor) -> Tensor:
    """Return how much a unit acts at each patch, (1, patches, 1)."""
    if placed.mask is None:
        return like.new_ones(1, 1, 1)
    sides = [math.ceil(side / PATCH) for side in size]
    return F.interpolate(placed.mask.to(like), size=sides, mode="area").view(1, -1, 1)


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
