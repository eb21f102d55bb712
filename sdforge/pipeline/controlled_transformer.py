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
from torch.utils.hooks import RemovableHandle

from sdforge.models.adapters.transformer_controlnet import (
    is_flux_control,
    is_sd3_control,
    is_stability_control,
    is_xlabs_control,
)
from sdforge.models.flux_call import PATCH, padded_to_patches, patches
from sdforge.pipeline.placed import PlacedUnit, rows_of

_PIXELS_A_PATCH = 16
# What networks that are told the distilled CFG scale are told where there is none.
_USUAL_GUIDANCE = 3.5
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
            return self._call_sd3(module, inputs)
        added: dict[str, list[Tensor]] = {}
        for placed, rows in self._units:
            way = _in_turns if is_xlabs_control(placed.network) else _spread
            for blocks, said in zip(_ADDED, _said(placed, rows, inputs), strict=False):
                if said:
                    spread = way(said, len(getattr(module, blocks)))
                    before = added.get(_ADDED[blocks])
                    added[_ADDED[blocks]] = _sum(before, spread) if before else spread
        return module(**inputs, **added)

    def _call_sd3(self, transformer: Any, inputs: dict[str, Any]) -> Any:
        """Run SD 3's transformer with what the units say behind its blocks.

        They run when its patches are embedded, which Stability's take over: within its run, so that
        its weights are where they compute.
        """
        blocks = transformer.transformer_blocks
        said: list[Tensor] = []
        last: list[Tensor] = []

        def when_embedded(module: nn.Module, args: Any, patches: Tensor) -> None:
            for placed, rows in self._units:
                spread = _spread_by_share(_said_sd3(placed, rows, inputs, patches), len(blocks))
                said[:] = _sum(said, spread) if said else spread
                if is_stability_control(placed.network):
                    last[:] = _sum(last, spread[-1:]) if last else spread[-1:]

        def behind_last(module: nn.Module, args: Any, found: Any) -> Any:
            text, states = found
            return (text, states + last[0]) if last else found

        hooks: list[RemovableHandle] = [
            transformer.pos_embed.register_forward_hook(when_embedded),
            # The transformer itself adds nothing there, as InstantX does; Stability does.
            blocks[-1].register_forward_hook(behind_last),
        ]
        try:
            return transformer(**inputs, block_controlnet_hidden_states=said)
        finally:
            for hook in hooks:
                hook.remove()


def _said(placed: PlacedUnit, rows: list[int] | None, inputs: dict[str, Any]) -> list[list[Tensor]]:
    """Return what a unit adds behind blocks of each kind, weighted, for all rows and patches."""
    seen = inputs["hidden_states"]
    hint, sides = _hint(placed, seen)
    count = math.prod(sides)
    acting = list(range(len(seen))) if rows is None else rows
    # Behind the drawn patches may lie those of a picture to refer to; within them, a mask's.
    drawn = seen[acting, :count, : _patch_numbers(placed)]
    told = _told_flux if is_flux_control(placed.network) else _told_qwen_image
    found = placed.network(
        hidden_states=drawn,
        controlnet_cond=hint.expand(len(acting), *hint.shape[1:]),
        encoder_hidden_states=inputs["encoder_hidden_states"][acting],
        timestep=inputs["timestep"][acting],
        return_dict=False,
        **told(placed, acting, count, inputs),
    )
    parts = found if isinstance(found, tuple) else (found,)
    weight = placed.unit.weight * _mask(placed, sides, drawn)
    return [[_placed(one * weight, acting, seen) for one in part or ()] for part in parts]


def _hint(placed: PlacedUnit, like: Tensor) -> tuple[Tensor, Sequence[int]]:
    """Return what a network is shown, and its patches a side."""
    hint = placed.hint.to(like)
    if is_xlabs_control(placed.network):
        return hint, [side // _PIXELS_A_PATCH for side in hint.shape[-2:]]
    padded = padded_to_patches(hint)
    return patches(padded), [side // PATCH for side in padded.shape[-2:]]


def _patch_numbers(placed: PlacedUnit) -> int:
    """Return how many numbers of a patch a network sees: those of its latents."""
    network: Any = placed.network
    embedder = network.x_embedder if is_flux_control(network) else network.img_in
    return int(embedder.in_features)


def _said_sd3(
    placed: PlacedUnit, rows: list[int] | None, inputs: dict[str, Any], embedded: Tensor
) -> list[Tensor]:
    """Return what a unit of SD 3 adds behind each of its blocks; latents are patched in there."""
    seen = inputs["hidden_states"]
    acting = list(range(len(seen))) if rows is None else rows
    hint = padded_to_patches(placed.hint.to(seen))
    pooled = inputs["pooled_projections"][acting]
    is_own = is_stability_control(placed.network)
    (found,) = placed.network(
        hidden_states=(embedded if is_own else seen)[acting],
        controlnet_cond=hint.expand(len(acting), -1, -1, -1),
        encoder_hidden_states=None if is_own else inputs["encoder_hidden_states"][acting],
        # InstantX' and their kin were trained without it.
        pooled_projections=pooled if is_own else torch.zeros_like(pooled),
        timestep=inputs["timestep"][acting],
        return_dict=False,
    )
    sides = [side // PATCH for side in hint.shape[-2:]]
    weight = placed.unit.weight * _mask(placed, sides, seen)
    return [rows_of(one * weight, acting, len(seen)) for one in found]


def _spread_by_share(said: Sequence[Tensor], depth: int) -> list[Tensor]:
    """Return one for each of SD 3's blocks, as diffusers' transformer spreads them."""
    share = depth / len(said)
    return [said[int(block / share)] for block in range(depth)]


def _told_flux(
    placed: PlacedUnit, acting: list[int], count: int, inputs: dict[str, Any]
) -> dict[str, Any]:
    config: Any = placed.network.config
    pooled = inputs["pooled_projections"][acting]
    guidance = inputs["guidance"]
    if guidance is None:
        # A model such as schnell is told none, of which these networks know nothing.
        guidance = pooled.new_full((len(inputs["hidden_states"]),), _USUAL_GUIDANCE)
    told = {
        "pooled_projections": pooled,
        "img_ids": inputs["img_ids"][:count],
        "txt_ids": inputs["txt_ids"],
        "guidance": guidance[acting] if config["guidance_embeds"] else None,
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


def _mask(placed: PlacedUnit, sides: Sequence[int], like: Tensor) -> Tensor:
    """Return how much a unit acts at each patch, (1, patches, 1)."""
    if placed.mask is None:
        return like.new_ones(1, 1, 1)
    return F.interpolate(placed.mask.to(like), size=list(sides), mode="area").view(1, -1, 1)


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


def _in_turns(said: Sequence[Tensor], depth: int) -> list[Tensor]:
    """Return one for each of the transformer's blocks, one after the other again and again."""
    return [said[block % len(said)] for block in range(depth)]
