"""ControlNet-LLLite: small networks before layers of the U-Net's attentions, as kohya trains them.

To what such a layer is given, weight · up(mid(picture ‖ down(x))) is added; what is seen of the
picture is worked out once, at the size of the layer's places. After `control_net_lllite.py` of
kohya-ss/sd-scripts, whose files are read: SDXL, linear layers alone, as all published ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.adapters.lora_keys import original_unet_name
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe, Source
from sdforge.models.skeleton import Skeleton

_PREFIX = "lllite_unet_"
_PART = re.compile(r"(lllite_unet_\w+)\.(conditioning1|down|mid|up)\.(\d+)\.(weight|bias)")
# Latents are an eighth of the picture's size.
_DOWNSCALE = 8
Shape = tuple[int, ...]


class Lllite(nn.Module):
    """The small networks, by the file's names of the layers that they are for."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        """Take them in the file's order."""
        super().__init__()
        self.config = {"lllite": len(pieces)}
        self.pieces = nn.ModuleDict(dict(pieces))


class Piece(nn.Module):
    """What is put before one layer."""

    def __init__(self, kernels: Sequence[Shape], width: int, inner: int) -> None:
        """Build it.

        Args:
            kernels: shapes of the convolutions that see the picture; each steps by its own size.
            width: of what the layer is given.
            inner: of the numbers in between.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for out, into, side, _ in kernels:
            layers += [nn.Conv2d(into, out, side, stride=side), nn.ReLU()]
        self.conditioning1 = nn.Sequential(*layers[:-1])
        self.factor = prod(shape[2] for shape in kernels)
        self.down = nn.Sequential(nn.Linear(width, inner), nn.ReLU())
        self.mid = nn.Sequential(nn.Linear(inner + kernels[-1][0], inner), nn.ReLU())
        self.up = nn.Sequential(nn.Linear(inner, width))

    def forward(self, states: Tensor | None, seen: Tensor) -> Tensor:
        """Return what is added to (rows, places, width); `seen` is (1, places, …).

        Without states `seen` is a picture, and what is seen of it is returned: whatever brings the
        weights in does so for this call alone.
        """
        if states is None:
            made: Tensor = self.conditioning1(seen)
            return made.flatten(2).transpose(1, 2)
        beside = seen.to(states).expand(len(states), -1, -1)
        added: Tensor = self.up(self.mid(torch.cat([beside, self.down(states)], dim=2)))
        return added


def is_lllite(header: CheckpointHeader) -> bool:
    """Say whether a file's tensors have the names of a ControlNet-LLLite for a U-Net."""
    return header.has_prefix(_PREFIX)


def is_lllite_network(module: nn.Module) -> bool:
    """Say whether a network is a ControlNet-LLLite."""
    return "lllite" in (getattr(module, "config", None) or {})


def lllite_recipe(header: CheckpointHeader, role: str) -> Recipe:
    """Return how to make the network of a file, all shapes checked.

    Raises:
        MissingModel: parts of it are missing.
        UnsupportedCheckpoint: its shapes do not fit together, or it is for convolutions too.
    """
    found: dict[str, dict[str, Shape]] = {}
    for key, info in header.tensors.items():
        match = _PART.fullmatch(key)
        if match is not None:
            found.setdefault(match[1], {})[key.removeprefix(f"{match[1]}.")] = info.shape
    with torch.device("meta"):
        module = Lllite({name: _piece(header, name, one) for name, one in found.items()})
    sources = {}
    for name, tensor in module.state_dict().items():
        key = name.removeprefix("pieces.")
        if key not in header.tensors:
            raise MissingModel(f"{_called(header)} is incomplete: no {key}")
        if header.tensors[key].shape != tuple(tensor.shape):
            raise UnsupportedCheckpoint(
                f"{_called(header)} cannot be run: {key} has the shape "
                f"{list(header.tensors[key].shape)}, {list(tensor.shape)} was expected"
            )
        sources[name] = Source(key, tuple(tensor.shape))
    return Recipe(role=role, layout=header.layout, skeleton=Skeleton(module), sources=sources)


def _called(header: CheckpointHeader) -> str:
    return f"the ControlNet-LLLite in {header.path.name}"


def _piece(header: CheckpointHeader, name: str, shapes: Mapping[str, Shape]) -> Piece:
    kernels: list[Shape] = []
    while (key := f"conditioning1.{2 * len(kernels)}.weight") in shapes:
        kernels.append(shapes[key])
    down = shapes.get("down.0.weight", ())
    if not kernels or not down:
        raise MissingModel(f"{_called(header)} is incomplete: no conditioning1 or down in {name}")
    if len(down) != 2 or any(len(one) != 4 or one[2] != one[3] or not one[2] for one in kernels):
        raise UnsupportedCheckpoint(
            f"{_called(header)} cannot be run: {name} is for a convolution; those for attentions "
            "alone are supported"
        )
    return Piece(kernels, width=down[1], inner=down[0])


def lllite_layers(network: nn.Module, unet: nn.Module) -> list[tuple[Piece, nn.Linear]]:
    """Return a network's pieces, each with the layer of a U-Net that it is put before.

    Raises:
        UnsupportedCheckpoint: the U-Net lacks a layer, or it has another width.
    """
    linear = {name: one for name, one in unet.named_modules() if isinstance(one, nn.Linear)}
    known = [name for name, _ in unet.named_modules()]
    original = original_unet_name(known)
    layers = {_PREFIX + original(name).replace(".", "_"): one for name, one in linear.items()}
    found = []
    pieces: Any = network.get_submodule("pieces")
    for name, piece in pieces.items():
        layer, width = layers.get(name), piece.down[0].in_features
        if layer is None or layer.in_features != width:
            has = "no such layer" if layer is None else f"one of width {layer.in_features}"
            raise UnsupportedCheckpoint(
                f"it is for a {name.removeprefix(_PREFIX)} of width {width}, the model has {has}"
            )
        found.append((piece, layer))
    return found


def lllite_sight(pieces: Sequence[Piece], picture: Tensor) -> list[Tensor]:
    """Return what each piece sees, (1, places, …), of a picture (1, 3, height, width) of 0 to 1.

    The U-Net rounds its sizes up where convolutions would round down, so the picture is stretched
    to what its places cover.
    """
    shown = picture.clamp(min=0) * 2 - 1
    by_factor: dict[int, Tensor] = {}
    seen = []
    for piece in pieces:
        if piece.factor not in by_factor:
            sides = [
                -(-(side // _DOWNSCALE) * _DOWNSCALE // piece.factor) * piece.factor
                for side in shown.shape[-2:]
            ]
            fits = list(shown.shape[-2:]) == sides
            by_factor[piece.factor] = (
                shown if fits else F.interpolate(shown, size=sides, mode="bilinear")
            )
        seen.append(piece(None, by_factor[piece.factor]))
    return seen


@dataclass(frozen=True, eq=False)
class Lean:
    """What one ControlNet-LLLite adds in a call.

    Attributes:
        layers: of `lllite_layers`.
        seen: of `lllite_sight`.
        shares: what it is multiplied by, (rows, 1, 1).
        mask: where it acts, (1, 1, height, width) from 0 to 1; None for everywhere.
        size: (height, width) of the latents.
    """

    layers: Sequence[tuple[Piece, nn.Linear]]
    seen: Sequence[Tensor]
    shares: Tensor
    mask: Tensor | None
    size: tuple[int, int]


@contextmanager
def leaning(leans: Sequence[Lean]) -> Iterator[None]:
    """Let layers of a U-Net lean towards pictures, while the block runs."""
    with ExitStack() as stack:
        for lean in leans:
            for (piece, layer), seen in zip(lean.layers, lean.seen, strict=True):
                stack.callback(layer.register_forward_pre_hook(_adding(lean, piece, seen)).remove)
        yield


def _adding(lean: Lean, piece: Piece, seen: Tensor) -> Any:
    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = inputs[0]
        added = piece(states, seen) * lean.shares
        if lean.mask is not None:
            sides = [-(-side * _DOWNSCALE // piece.factor) for side in lean.size]
            small = F.interpolate(lean.mask.to(states), size=sides, mode="area")
            added = added * small.flatten(2).transpose(1, 2)
        return (states + added, *inputs[1:])

    return before
