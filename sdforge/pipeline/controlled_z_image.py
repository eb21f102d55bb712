"""Z-Image's transformer with ControlNets beside it, which run with parts of the transformer itself.

They run just before its first layer, when whatever holds the whole of it has brought that in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.models.adapters.z_image_controlnet import borrowing, z_image_places
from sdforge.models.flux_call import PATCH, padded_to_patches
from sdforge.pipeline.placed import PlacedUnit, rows_of


class ControlledZImage(nn.Module):
    """Has the transformer's signature; that is not its child, so that nothing walks into it."""

    def __init__(
        self, module: nn.Module, units: Sequence[tuple[PlacedUnit, list[int] | None]]
    ) -> None:
        """Take the transformer and the units that act, each with its rows (None: all)."""
        super().__init__()
        self._in_a_tuple = (module,)
        self._units = units

    def forward(
        self, pictures: list[Tensor], time: Tensor, texts: list[Tensor], return_dict: bool = True
    ) -> Any:
        """Run the transformer; what the units say is added behind its layers, by their places."""
        (module,) = self._in_a_tuple
        transformer: Any = module
        said: dict[int, Tensor] = {}

        def before_layers(layer: nn.Module, args: Any) -> None:
            for placed, rows in self._units:
                for place, one in _said(placed, rows, transformer, pictures, time, texts).items():
                    said[place] = said[place] + one if place in said else one

        hook = transformer.layers[0].register_forward_pre_hook(before_layers, prepend=True)
        try:
            return module(
                pictures, time, texts, return_dict=return_dict, controlnet_block_samples=said
            )
        finally:
            hook.remove()


def _said(
    placed: PlacedUnit,
    rows: list[int] | None,
    transformer: Any,
    pictures: Sequence[Tensor],
    time: Tensor,
    texts: Sequence[Tensor],
) -> dict[int, Tensor]:
    """Return what a unit adds behind layers, (rows, patches and tokens, width), by their places."""
    acting = list(range(len(pictures))) if rows is None else rows
    first = pictures[0]
    hint = padded_to_patches(placed.hint.to(first)).unsqueeze(2)[0]
    network: Any = placed.network
    empty = int(network.config["control_in_dim"]) - len(hint)
    seen = torch.cat([hint, hint.new_zeros(empty, *hint.shape[1:])])
    with borrowing(network, transformer) as control:
        found = control(
            [pictures[row] for row in acting],
            time[acting],
            [texts[row] for row in acting],
            [seen] * len(acting),
            conditioning_scale=placed.unit.weight,
        )
    places = z_image_places(network, len(transformer.layers))
    return {
        places[number]: rows_of(_masked(one, placed), acting, len(pictures))
        for number, one in found.items()
    }


def _masked(said: Tensor, placed: PlacedUnit) -> Tensor:
    """Return what is said where a unit acts; of the text's tokens, which have no place, a share."""
    if placed.mask is None:
        return said
    sides = [math.ceil(side / PATCH) for side in placed.hint.shape[-2:]]
    mask = F.interpolate(placed.mask.to(said), size=sides, mode="area").flatten()
    rest = mask.mean().expand(said.shape[1] - len(mask))
    return said * torch.cat([mask, rest])[None, :, None]
