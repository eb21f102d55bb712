"""Temporary changes to how a U-Net computes: context managers over a placed network.

Each installs hooks on some modules and takes all of them away at the end, also after an exception.
Weights are never touched. Most rely on the names of diffusers' U-Nets (`mid_block`, `up_blocks`,
`attn1`); another kind of network is refused with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sdforge.core.errors import UnsupportedCheckpoint

Edit = Callable[[nn.Module], AbstractContextManager[None]]


def middle_self_attentions(network: nn.Module) -> list[Any]:
    """Return the self-attentions of the middle block, where PAG and SAG look."""
    return _self_attentions(_part(network, "mid_block"))


def _self_attentions(part: nn.Module) -> list[Any]:
    return [block.attn1 for block in part.modules() if hasattr(block, "attn1")]


def _part(network: nn.Module, name: str) -> Any:
    part = getattr(network, name, None)
    if part is None:
        raise UnsupportedCheckpoint(
            f"this extension changes a U-Net, and {type(network).__name__} has no {name}: "
            "switch it off for this checkpoint"
        )
    return part


@contextmanager
def circular_padding(network: nn.Module) -> Iterator[None]:
    """Let every convolution take what lies beyond an edge from the opposite one (A1111's tiling).

    What a network draws then goes on seamlessly from right to left and from bottom to top.
    """
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    before = [part.padding_mode for part in convolutions]
    try:
        for part in convolutions:
            part.padding_mode = "circular"
        yield
    finally:
        for part, mode in zip(convolutions, before, strict=True):
            part.padding_mode = mode


@contextmanager
def blind_middle_attention(network: nn.Module) -> Iterator[None]:
    """Let every place of the middle block attend to itself only.

    The perturbation of Ahn et al. 2024, arXiv:2403.17377: the attention map becomes the identity,
    so the output is the projected values.
    """

    def identity(attention: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        projected: Tensor = attention.to_out[0](attention.to_v(inputs[0]))
        return projected

    with _hooked(middle_self_attentions(network), after=identity):
        yield


@contextmanager
def recorded_middle_attention(network: nn.Module, found: list[Tensor]) -> Iterator[None]:
    """Append the last self-attention map of the middle block to `found` after every call.

    Maps are probabilities, (rows, heads, places, places attended to).
    """

    def record(attention: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        states = inputs[0]
        query, key = (
            projection(states).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for projection in (attention.to_q, attention.to_k)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        found.append(scores.float().softmax(-1))

    with _hooked(middle_self_attentions(network)[-1:], after=record):
        yield


@contextmanager
def scaled_decoder(
    network: nn.Module, *, b1: float, b2: float, s1: float, s2: float
) -> Iterator[None]:
    """Strengthen the backbone and weaken the skips of the two deepest decoder levels: FreeU.

    Si et al. 2023, arXiv:2309.11497, in its second version: half of the backbone's channels are
    scaled by up to `b`, following their mean over channels; of the skips the lowest frequencies
    are scaled by `s`. Level 1 is where the backbone has most channels (1280 in SD 1.x and SDXL),
    level 2 where it has the next fewer (640), as peers count.
    """
    channels = [
        (resnet, _backbone_channels(network, block, resnet))
        for block in _part(network, "up_blocks")
        for resnet in block.resnets
    ]
    deepest_first = sorted({backbone for _, backbone in channels}, reverse=True)
    levels = dict(zip(deepest_first, ((b1, s1), (b2, s2)), strict=False))
    edits = [(resnet, count, *levels[count]) for resnet, count in channels if count in levels]

    handles = []
    try:
        for resnet, backbone, strength, skip_scale in edits:
            handles.append(
                resnet.register_forward_pre_hook(_freeu_hook(backbone, strength, skip_scale))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _backbone_channels(network: Any, block: Any, resnet: Any) -> int:
    """Return how many of a decoder resnet's input channels come from below, not from a skip."""
    if resnet is not block.resnets[0]:
        return int(block.resnets[0].out_channels)
    below = list(network.up_blocks)
    place = below.index(block)
    source = network.mid_block if place == 0 else below[place - 1]
    return int(source.resnets[-1].out_channels)


def _freeu_hook(
    backbone: int, strength: float, skip_scale: float
) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def edit(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        states = inputs[0]
        deep, skip = states[:, :backbone], states[:, backbone:]
        mean = deep.mean(1, keepdim=True)
        low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
        share = (mean - low) / (high - low).clamp_min(1e-8)
        half = backbone // 2
        scaled = deep[:, :half] * (1 + (strength - 1) * share)
        joined = torch.cat([scaled, deep[:, half:], _less_of_the_lowest(skip, skip_scale)], dim=1)
        return (joined, *inputs[1:])

    return edit


def _less_of_the_lowest(states: Tensor, scale: float) -> Tensor:
    """Scale the frequencies −1 and 0 of both axes, the 2 × 2 square that FreeU's authors cut."""
    spectrum = torch.fft.fft2(states.float())
    rows, columns = ([-1, 0] if side > 1 else [0] for side in spectrum.shape[-2:])
    for row in rows:
        for column in columns:
            spectrum[..., row, column] *= scale
    return torch.fft.ifft2(spectrum).real.to(states.dtype)


@contextmanager
def merged_tokens(network: nn.Module, ratio: float) -> Iterator[None]:
    """Let the self-attentions of the largest feature maps see fewer places.

    Token merging for Stable Diffusion: Bolya & Hoffman 2023, arXiv:2303.17604. One place of every
    2 × 2 square stays; of the others the share `ratio` of all places (at most 3/4) that resemble a
    staying one most is averaged into it for the attention, and takes its result.
    """
    size: list[int] = []
    merges: dict[int, _Merge] = {}

    def note_size(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        size[:] = inputs[0].shape[-2:]

    def before(attention: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        states = inputs[0]
        if states.shape[1] != size[0] * size[1] or size[0] % 2 or size[1] % 2:
            return inputs
        merge = merges[id(attention)] = _Merge(states, (size[0], size[1]), ratio)
        return (merge.apart_to_merged(states), *inputs[1:])

    def after(attention: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        merge = merges.pop(id(attention), None)
        return output if merge is None else merge.merged_to_apart(output)

    attentions = _self_attentions(network)
    with _hooked([network], before=note_size), _hooked(attentions, before=before, after=after):
        yield


class _Merge:
    """Which places of a map of (height, width) go into which others."""

    def __init__(self, states: Tensor, size: tuple[int, int], ratio: float) -> None:
        places = torch.arange(states.shape[1], device=states.device).view(size)
        self._stays = places[::2, ::2].flatten()
        is_source = torch.ones(states.shape[1], dtype=torch.bool, device=states.device)
        is_source[self._stays] = False
        self._sources = places.flatten()[is_source]
        count = min(int(states.shape[1] * ratio), len(self._sources))
        unit = states / states.norm(dim=-1, keepdim=True).clamp_min(1e-8)
        likeness = unit[:, self._sources] @ unit[:, self._stays].transpose(-1, -2)
        best, target = likeness.max(-1)
        order = best.argsort(-1, descending=True)
        self._merged, self._kept = order[:, :count], order[:, count:]
        self._target = target.gather(1, self._merged)

    def apart_to_merged(self, states: Tensor) -> Tensor:
        """Return the places that are left: kept sources first, then the staying ones, averaged."""
        width = states.shape[-1]
        sources = states[:, self._sources]
        kept = sources.gather(1, self._kept.unsqueeze(-1).expand(-1, -1, width))
        merged = sources.gather(1, self._merged.unsqueeze(-1).expand(-1, -1, width))
        target = self._target.unsqueeze(-1).expand(-1, -1, width)
        staying = states[:, self._stays].scatter_reduce(1, target, merged, "mean")
        return torch.cat([kept, staying], dim=1)

    def merged_to_apart(self, states: Tensor) -> Tensor:
        """Return all places in order; merged ones get the result of the one they went into."""
        rows, _, width = states.shape
        kept_count = self._kept.shape[1]
        kept, staying = states[:, :kept_count], states[:, kept_count:]
        merged = staying.gather(1, self._target.unsqueeze(-1).expand(-1, -1, width))
        sources = states.new_empty(rows, len(self._sources), width)
        sources.scatter_(1, self._kept.unsqueeze(-1).expand(-1, -1, width), kept)
        sources.scatter_(1, self._merged.unsqueeze(-1).expand(-1, -1, width), merged)
        apart = states.new_empty(rows, len(self._sources) + len(self._stays), width)
        apart[:, self._sources] = sources
        apart[:, self._stays] = staying
        return apart


@contextmanager
def _hooked(
    modules: list[Any],
    *,
    before: Callable[..., Any] | None = None,
    after: Callable[..., Any] | None = None,
) -> Iterator[None]:
    handles = []
    try:
        for module in modules:
            if before is not None:
                handles.append(module.register_forward_pre_hook(before))
            if after is not None:
                handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()
