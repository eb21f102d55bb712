"""Kohya's deep shrink: the inside of a U-Net works on a smaller map: large pictures hold together.

A context manager over a placed network, as those of `edits.py`. Blocks are numbered as in the
original layout of Stable Diffusion, whose numbers A1111's, Forge's and ComfyUI's users know: 0 is
the first convolution, then every pair of resnet and attention and every downsampler counts as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.core.errors import UnsupportedCheckpoint

METHODS = ("bicubic", "nearest-exact", "bilinear", "area", "bislerp")

Size = tuple[int, int]


@dataclass(frozen=True)
class Shrink:
    """How a network is shrunk.

    Attributes:
        block: number of the block after which the map is smaller, from 1.
        factor: by which both sides are divided.
        after_skip: whether the way up gets this block's map in full size.
        down: one of `METHODS`, for shrinking.
        up: the same, where the way up meets a map of another size.
    """

    block: int = 3
    factor: float = 2.0
    after_skip: bool = True
    down: str = "bicubic"
    up: str = "bicubic"


@dataclass(frozen=True)
class _Place:
    """A numbered block: what makes its map, what takes it next, and in which level it lies."""

    maker: nn.Module
    taker: nn.Module
    level: int
    halves: bool
    is_last_of_level: bool


@dataclass
class _Sizes:
    """(height, width) of a call's maps: of each skip, of each level's end, and of the middle."""

    skips: list[Size]
    levels: list[Size]
    middle: Size


@contextmanager
def shrunk(network: nn.Module, shrink: Shrink) -> Iterator[None]:
    """Let a U-Net compute on a smaller map behind a block of its way down.

    Raises:
        UnsupportedCheckpoint: it is no U-Net, or has no such block.
    """
    places = _places(network)
    if not 1 <= shrink.block < len(places):
        raise UnsupportedCheckpoint(
            f"Kohya HRFix: there is no block {shrink.block} in this checkpoint's U-Net, "
            f"which has 1 to {len(places) - 1}"
        )
    state: list[_Sizes] = []

    def before_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        sample = args[0] if args else kwargs["sample"]
        state[:] = [_sizes(places, shrink, _size_of(sample))]
        return args, _fitting_residuals(kwargs, state[0], shrink)

    handles: list[Any] = []
    ups: Any = network.up_blocks
    before = [vars(block).get("forward") for block in ups]
    try:
        handles.append(network.register_forward_pre_hook(before_call, with_kwargs=True))
        handles.append(_shrinking_hook(places[shrink.block], shrink))
        for block in ups:
            block.forward = _UpBlock(block, state, shrink.up)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for block, forward in zip(ups, before, strict=True):
            vars(block).pop("forward", None)
            if forward is not None:
                block.forward = forward


def _shrinking_hook(place: _Place, shrink: Shrink) -> Any:
    """Install what makes a block's map smaller, and return its handle."""

    def smaller(states: Tensor) -> Tensor:
        return resized(states, _divided(_size_of(states), shrink.factor), shrink.down)

    if shrink.after_skip:
        return place.taker.register_forward_pre_hook(
            lambda module, inputs: (smaller(inputs[0]), *inputs[1:])
        )
    # Attentions answer with a tuple, all else with the map.
    return place.maker.register_forward_hook(
        lambda module, inputs, output: (
            (smaller(output[0]), *output[1:]) if isinstance(output, tuple) else smaller(output)
        )
    )


class _UpBlock:
    """The forward of a block of the way up whose map may have another size than its skips."""

    def __init__(self, block: Any, state: Sequence[_Sizes], method: str) -> None:
        self._block = block
        self._state = state
        self._method = method

    def __call__(
        self,
        hidden_states: Tensor,
        res_hidden_states_tuple: tuple[Tensor, ...],
        temb: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        upsample_size: Any = None,
        **ignored: Any,
    ) -> Tensor:
        """Return what the block says, as diffusers' own forward does for equal sizes."""
        states, skips = hidden_states, list(res_hidden_states_tuple)
        attentions = getattr(self._block, "attentions", None) or [None] * len(self._block.resnets)
        sizes = self._state[0].skips
        for resnet, attention in zip(self._block.resnets, attentions, strict=True):
            skip = skips.pop()
            sizes.pop()
            states = resized(states, _size_of(skip), self._method)
            states = resnet(torch.cat([states, skip], dim=1), temb)
            if attention is not None:
                states = attention(
                    states, encoder_hidden_states=encoder_hidden_states, return_dict=False
                )[0]
        for upsampler in self._block.upsamplers or ():
            states = upsampler(states, sizes[-1])
        return states


def _places(network: Any) -> list[_Place]:
    if not hasattr(network, "down_blocks") or not hasattr(network, "up_blocks"):
        raise UnsupportedCheckpoint(
            f"Kohya HRFix changes a U-Net, and {type(network).__name__} is none: "
            "switch it off for this checkpoint"
        )
    # Of each block: what is called first with its map's predecessor, what makes the map.
    found: list[tuple[nn.Module, nn.Module, int, bool, bool]] = [
        (network.conv_in, network.conv_in, 0, False, False)
    ]
    for level, block in enumerate(network.down_blocks):
        attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
        pairs = list(zip(block.resnets, attentions, strict=True))
        for number, (resnet, attention) in enumerate(pairs, start=1):
            maker = resnet if attention is None else attention
            found.append((resnet, maker, level, False, number == len(pairs)))
        for downsampler in block.downsamplers or ():
            found.append((downsampler, downsampler, level, True, False))
    takers = [entry for entry, *_ in found[1:]] + [network.mid_block.resnets[0]]
    return [
        _Place(maker, taker, level, halves, is_last)
        for (_, maker, level, halves, is_last), taker in zip(found, takers, strict=True)
    ]


def _sizes(places: Sequence[_Place], shrink: Shrink, size: Size) -> _Sizes:
    """Return the sizes that a call with latents of `size` will have."""
    skips: list[Size] = []
    levels: list[Size] = []
    for number, place in enumerate(places):
        if place.halves:
            size = (-(-size[0] // 2), -(-size[1] // 2))
        small = _divided(size, shrink.factor) if number == shrink.block else size
        skips.append(size if shrink.after_skip else small)
        if place.is_last_of_level:
            levels.append(skips[-1])
        size = small
    return _Sizes(skips, levels, size)


def _fitting_residuals(kwargs: dict[str, Any], sizes: _Sizes, shrink: Shrink) -> dict[str, Any]:
    """Return a call's arguments with what ControlNets and T2I-Adapters add brought to its sizes."""
    changed = dict(kwargs)
    for name, wanted in (
        ("down_block_additional_residuals", sizes.skips),
        ("down_intrablock_additional_residuals", sizes.levels),
    ):
        given = kwargs.get(name)
        if given:
            fitting = [
                resized(one, size, shrink.down) for one, size in zip(given, wanted, strict=False)
            ]
            changed[name] = fitting if isinstance(given, list) else tuple(fitting)
    middle = kwargs.get("mid_block_additional_residual")
    if middle is not None:
        changed["mid_block_additional_residual"] = resized(middle, sizes.middle, shrink.down)
    return changed


def _size_of(states: Tensor) -> Size:
    return int(states.shape[-2]), int(states.shape[-1])


def _divided(size: Size, factor: float) -> Size:
    return max(round(size[0] / factor), 1), max(round(size[1] / factor), 1)


def resized(states: Tensor, size: Size, method: str) -> Tensor:
    """Return a map (batch, channels, height, width) in another size by one of `METHODS`."""
    if _size_of(states) == size:
        return states
    if method == "bislerp":
        return _bislerp(states, size)
    options = {"align_corners": False} if method in ("bicubic", "bilinear") else {}
    return F.interpolate(states, size=size, mode=method, **options)


def _bislerp(states: Tensor, size: Size) -> Tensor:
    """Interpolate directions on the sphere and lengths on the line, first across, then down."""
    across = _slerped_last_axis(states.float(), size[1])
    down = _slerped_last_axis(across.transpose(-1, -2), size[0]).transpose(-1, -2)
    return down.to(states.dtype)


def _slerped_last_axis(states: Tensor, length: int) -> Tensor:
    before = states.shape[-1]
    places = (torch.arange(length, device=states.device) + 0.5) * (before / length) - 0.5
    places = places.clamp(0, before - 1)
    left = places.floor().long()
    right = (left + 1).clamp(max=before - 1)
    share = places - left
    one, other = states[..., left], states[..., right]
    one_norm, other_norm = (part.norm(dim=1, keepdim=True) for part in (one, other))
    unit, unit_other = one / one_norm.clamp_min(1e-8), other / other_norm.clamp_min(1e-8)
    cosine = (unit * unit_other).sum(1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    # Where both point the same way, or opposite ones, the straight line is what is left.
    is_straight = (cosine.abs() > 1 - 1e-5) | (angle.sin().abs() < 1e-8)
    sine = angle.sin().clamp_min(1e-8)
    first = torch.where(is_straight, 1 - share, ((1 - share) * angle).sin() / sine)
    second = torch.where(is_straight, share, (share * angle).sin() / sine)
    length_here = one_norm * (1 - share) + other_norm * share
    direction = unit * first + unit_other * second
    return direction * length_here
