"""A U-Net with ControlNets beside it: what they add to its skips and its middle at every call.

It takes the U-Net's place in `DenoiserModel.predict` and has its signature, so denoisers know
nothing of it. What its networks see is made by `control.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.core.control import CONTROL_FIRST, ControlUnit
from sdforge.models.adapters.controlnet import is_adapter
from sdforge.models.adapters.ip_adapter import Look, is_ip_network, looking, text_attentions
from sdforge.models.adapters.lllite import (
    Lean,
    Piece,
    is_lllite_network,
    leaning,
    lllite_layers,
    lllite_sight,
)
from sdforge.models.adapters.transformer_controlnet import is_transformer_control, said_numbers
from sdforge.models.adapters.z_image_controlnet import is_z_image_control
from sdforge.models.flux_call import PATCH
from sdforge.pipeline.controlled_transformer import ControlledTransformer
from sdforge.pipeline.controlled_z_image import ControlledZImage
from sdforge.pipeline.placed import PlacedUnit

# What a layer weighs beside the next deeper one, where the prompt or the network shall lead.
_FALLOFF = 0.825
# How many layers lie deeper than the first, as the weights of SD 1.x count them; SDXL's three
# levels have fewer layers and take the first of those weights, so that their middle is at 0.56.
_XL_DEPTH = 12
_ADAPTER_SHARES = (0.25, 0.62, 0.825, 1.0)
# A ControlNet-LLLite's pieces, each with the layer that it is put before.
Layers = Sequence[tuple[Piece, nn.Linear]]


class Control:
    """The units of one walk over a U-Net's sigmas."""

    def __init__(self, units: Sequence[PlacedUnit], fraction: Callable[[float], float]) -> None:
        """`fraction` tells how much of the pass is done at a sigma, 0 to 1."""
        self._units = tuple(units)
        self._fraction = fraction
        self._attentions: list[Any] = []
        self._layers: dict[int, Layers] = {}

    def around(self, module: nn.Module, sigma: float, against: Sequence[bool]) -> nn.Module:
        """Return the network to call in place of `module`, for rows of these sides.

        Args:
            module: the U-Net.
            sigma: of the call.
            against: of each row whether it is of a negative prompt.
        """
        fraction = self._fraction(sigma)
        acting = [placed for placed in self._units if placed.unit.acts_at(fraction)]
        rows = {id(placed): _rows(placed.unit, against) for placed in acting}
        acting = [placed for placed in acting if rows[id(placed)] != []]
        if not acting:
            return module
        if not self._attentions and any(is_ip_network(placed.network) for placed in acting):
            self._attentions = text_attentions(module)
        for placed in acting:
            if is_lllite_network(placed.network) and id(placed) not in self._layers:
                self._layers[id(placed)] = lllite_layers(placed.network, module)
        units = [(placed, rows[id(placed)]) for placed in acting]
        if is_z_image_control(acting[0].network):
            return ControlledZImage(module, units)
        if is_transformer_control(acting[0].network):
            return ControlledTransformer(module, units)
        return _Controlled(module, units, against, self._attentions, self._layers)

    def recover(self) -> None:
        """Make the networks fit to run again after an exception inside them."""
        for placed in self._units:
            placed.lease.recover()


def _rows(unit: ControlUnit, against: Sequence[bool]) -> list[int] | None:
    """Return the rows that a unit acts on, None for all."""
    if unit.control_mode != CONTROL_FIRST or not any(against):
        return None
    return [row for row, is_against in enumerate(against) if not is_against]


class _Controlled(nn.Module):
    """Has the U-Net's signature; the U-Net is not its child, so that nothing walks into it."""

    def __init__(
        self,
        module: nn.Module,
        units: Sequence[tuple[PlacedUnit, list[int] | None]],
        against: Sequence[bool],
        attentions: Sequence[Any],
        layers: Mapping[int, Layers],
    ) -> None:
        super().__init__()
        self._call: Callable[..., Any] = module.__call__
        self._units = units
        self._against = against
        # In a tuple, so that the U-Net's modules do not become this one's.
        self._attentions = tuple(attentions)
        self._layers = (layers,)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        *,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
        **extra: Any,
    ) -> Any:
        """Run the units on the U-Net's inputs, add up what they say, and run the U-Net."""
        added: list[Tensor] = []
        inside: list[Tensor] = []
        looks: list[Look] = []
        leans: list[Lean] = []
        for placed, rows in self._units:
            if is_ip_network(placed.network):
                looks.append(_look(placed, rows, self._against, sample))
                continue
            if is_lllite_network(placed.network):
                leans.append(_lean(placed, rows, self._layers[0][id(placed)], sample))
                continue
            if is_adapter(placed.network):
                features = _features(placed, rows, sample)
                inside = (
                    [a + b for a, b in zip(inside, features, strict=True)] if inside else features
                )
                continue
            # Of networks that see more than latents, they see the latents.
            channels = placed.network.get_parameter("conv_in.weight").shape[1]
            latents = sample[:, :channels]
            said = _asked(placed, rows, latents, timestep, encoder_hidden_states, extra)
            added = _sum(added, said)
        if added:
            *skips, middle = added
            extra["down_block_additional_residuals"] = tuple(skips)
            extra["mid_block_additional_residual"] = middle
        if inside:
            # The U-Net takes them off the list as it goes.
            extra["down_intrablock_additional_residuals"] = inside
        with looking(self._attentions, looks) if looks else nullcontext(), leaning(leans):
            return self._call(
                sample,
                timestep,
                encoder_hidden_states=encoder_hidden_states,
                return_dict=return_dict,
                **extra,
            )


def _look(
    placed: PlacedUnit, rows: list[int] | None, against: Sequence[bool], sample: Tensor
) -> Look:
    """Return what an IP-Adapter adds: the picture's words to prompts, no picture's to others."""
    adapter: Any = placed.network
    if not placed.features:
        placed.features.append(adapter.image_proj(placed.hint.to(sample)))
    sides = [int(is_against) for is_against in against] or [0] * len(sample)
    return Look(
        adapter=adapter,
        words=placed.features[0][sides],
        shares=_shares(placed, rows, sample),
        mask=placed.mask,
        size=(sample.shape[-2], sample.shape[-1]),
    )


def _lean(placed: PlacedUnit, rows: list[int] | None, layers: Layers, sample: Tensor) -> Lean:
    """Return what a ControlNet-LLLite adds."""
    if not placed.features:
        placed.features.extend(lllite_sight([piece for piece, _ in layers], placed.hint.to(sample)))
    return Lean(
        layers=layers,
        seen=placed.features,
        shares=_shares(placed, rows, sample),
        mask=placed.mask,
        size=(sample.shape[-2], sample.shape[-1]),
    )


def _shares(placed: PlacedUnit, rows: list[int] | None, sample: Tensor) -> Tensor:
    """Return what a unit is multiplied by in each row, (rows, 1, 1)."""
    acts = [float(rows is None or row in rows) for row in range(len(sample))]
    return sample.new_tensor(acts).view(-1, 1, 1) * placed.unit.weight


def _asked(
    placed: PlacedUnit,
    rows: list[int] | None,
    sample: Tensor,
    timestep: Tensor,
    states: Tensor,
    extra: Mapping[str, Any],
) -> list[Tensor]:
    """Return what a unit adds to each skip, and to the middle last, weighted."""
    vectors = extra.get("added_cond_kwargs")
    inputs: dict[str, Any] = {} if vectors is None else {"added_cond_kwargs": vectors}
    asked, context = sample, states
    if rows is not None:
        asked, context = sample[rows], states[rows]
        if vectors is not None:
            inputs["added_cond_kwargs"] = {name: one[rows] for name, one in vectors.items()}
    skips, middle = placed.network(
        asked,
        timestep,
        encoder_hidden_states=context,
        return_dict=False,
        **_seen(placed, asked),
        **inputs,
    )
    said: list[Tensor] = [*skips, middle]
    weights = layer_weights(placed, len(said), is_xl=vectors is not None)
    return [
        _spread(_masked(one * weight, placed.mask), rows, len(sample))
        for one, weight in zip(said, weights, strict=True)
    ]


def _seen(placed: PlacedUnit, sample: Tensor) -> dict[str, Any]:
    """Return a ControlNet's arguments that are about its picture."""
    hint = placed.hint.to(sample)
    if placed.kind is None:
        return {"controlnet_cond": hint}
    # What is to be repainted is black to these networks; others see it below black.
    rows = hint.clamp(min=0).expand(len(sample), -1, -1, -1)
    config: Any = placed.network.config
    kinds = sample.new_zeros(len(sample), int(config["num_control_type"]))
    kinds[:, placed.kind] = 1
    return {
        "controlnet_cond": [rows],
        "control_type": kinds,
        "control_type_idx": [placed.kind],
        "conditioning_scale": 1.0,
    }


def _sum(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    """Return the sums of two lists; an empty one is nothing."""
    return [a + b for a, b in zip(first, second, strict=True)] if first else second


def _features(placed: PlacedUnit, rows: list[int] | None, sample: Tensor) -> list[Tensor]:
    """Return what a T2I-Adapter adds to each level of the way down, weighted, for all rows."""
    if not placed.features:
        config = getattr(placed.network, "config", None) or {}
        hint, fold = placed.hint.to(sample), int(config["downscale_factor"])
        if config["in_channels"] == 1:
            hint = hint.mean(1, keepdim=True)
        size = [-(-side // fold) * fold for side in hint.shape[-2:]]
        if list(hint.shape[-2:]) != size:
            hint = F.interpolate(hint, size=size, mode="bilinear")
        placed.features.extend(placed.network(hint))
    weights = adapter_weights(placed, len(placed.features))
    acting = list(range(len(sample))) if rows is None else rows
    return [
        _spread(
            _masked(one * weight, placed.mask).expand(len(acting), -1, -1, -1), rows, len(sample)
        )
        for one, weight in zip(placed.features, weights, strict=True)
    ]


def adapter_weights(placed: PlacedUnit, count: int) -> list[float]:
    """Return what each level of a T2I-Adapter is multiplied by, the deepest last.

    Soft ones' outer levels count less, by the numbers of A1111's extension.
    """
    shares = _ADAPTER_SHARES[-count:] if placed.is_soft else (1.0,) * count
    return [placed.unit.weight * share for share in shares]


def said_bytes(network: nn.Module, rows: int, latents: int, dtype: torch.dtype) -> int:
    """Return the bytes of what a ControlNet adds in one call, for `latents` places a row."""
    if is_ip_network(network):
        adapter: Any = network
        # The queries and what is seen, in the first attention, which has the most places.
        return 2 * rows * latents * int(adapter.pairs[0].to_k_ip.out_features) * dtype.itemsize
    config = getattr(network, "config", None) or {}
    if is_lllite_network(network):
        pieces: Any = network.get_submodule("pieces")
        # What they see of the picture is kept, at a quarter of the latents' places or fewer.
        seen = sum(piece.mid[0].in_features for piece in pieces.values())
        return int(seen * latents / 4 * dtype.itemsize)
    if is_transformer_control(network):
        return rows * said_numbers(network, latents // PATCH**2) * dtype.itemsize
    widths = tuple(config.get("block_out_channels") or config.get("channels") or ())
    each = int(config.get("layers_per_block") or 0) + 1
    numbers = sum(width * each * latents / 4**level for level, width in enumerate(widths))
    return int(rows * numbers * dtype.itemsize)


def layer_weights(placed: PlacedUnit, count: int, *, is_xl: bool = False) -> list[float]:
    """Return what each layer is multiplied by, the middle last.

    Soft ones' outer layers count less: 0.825 to the power of the layers that lie deeper, as in
    A1111's extension and Forge.
    """
    weight, depth = placed.unit.weight, _XL_DEPTH if is_xl else count - 1
    if not placed.is_soft:
        return [weight] * count
    return [weight * _FALLOFF ** (depth - layer) for layer in range(count)]


def _masked(said: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return said
    return said * F.interpolate(mask.to(said), size=said.shape[-2:], mode="area")


def _spread(said: Tensor, rows: list[int] | None, count: int) -> Tensor:
    """Return as many rows as the U-Net has; those that were not asked get nothing."""
    if rows is None:
        return said
    whole = said.new_zeros(count, *said.shape[1:])
    whole[rows] = said
    return whole
