"""Names and shapes of the latent-diffusion U-Nets: SD 1.x, SD 2.x, SDXL, its refiner, ControlNets.

One description holds for all of them; they differ in widths, in how many transformers each level
has, in the kind of their projections and in whether a label vector comes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Named = Iterator[tuple[str, Shape]]

_HINT_CHANNELS = (16, 16, 32, 32, 96, 96, 256)


@dataclass(frozen=True, kw_only=True)
class UnetSizes:
    """What tells one U-Net of this kind from another."""

    width: int = 32
    factors: tuple[int, ...] = (1, 2, 2, 2)
    depths: tuple[int, ...] = (1, 1, 1, 0)
    """Transformer blocks at each level."""
    middle_depth: int = 1
    context: int = 32
    linear: bool = False
    """SD 2 and later project with linear layers instead of 1×1 convolutions."""
    label: int = 0
    """Length of the label vector (pooled text, sizes); 0 for none."""
    in_channels: int = 4
    out_channels: int = 4
    blocks: int = 2


SD1 = UnetSizes()
SD1_INPAINT = replace(SD1, in_channels=9)
SD1_EDIT = replace(SD1, in_channels=8)
SD2 = UnetSizes(context=48, linear=True)
# The six numbers of a size condition are embedded as 256 each, as in the real ones.
SDXL = UnetSizes(
    factors=(1, 2, 4),
    depths=(0, 2, 3),
    middle_depth=3,
    context=32 + 48,
    linear=True,
    label=48 + 6 * 256,
)
REFINER = UnetSizes(
    factors=(1, 2, 4, 4),
    depths=(0, 2, 2, 0),
    middle_depth=2,
    context=48,
    linear=True,
    label=48 + 5 * 256,
)


def layer(name: str, *shape: int) -> Named:
    """A layer with a bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def unet(sizes: UnetSizes) -> Shapes:
    """The whole network, names without prefix."""
    return dict([*_down(sizes), *_up(sizes)])


def controlnet(sizes: UnetSizes) -> Shapes:
    """The way down, the hint's head and the zero convolutions, names without prefix."""
    named = list(_down(sizes))
    channels = _HINT_CHANNELS
    place, before = 0, 3
    for width in (*channels, sizes.width):
        named += layer(f"input_hint_block.{place}", width, before, 3, 3)
        before, place = width, place + 2
    for number, width in enumerate(_skips(sizes)):
        named += layer(f"zero_convs.{number}.0", width, width, 1, 1)
    top = sizes.factors[-1] * sizes.width
    return dict([*named, *layer("middle_block_out.0", top, top, 1, 1)])


def _skips(sizes: UnetSizes) -> list[int]:
    """Channels of everything the way down hands across."""
    found = [sizes.width]
    for level, factor in enumerate(sizes.factors):
        found += [factor * sizes.width] * sizes.blocks
        if level + 1 < len(sizes.factors):
            found.append(factor * sizes.width)
    return found


def _down(sizes: UnetSizes) -> Named:
    width, embedding = sizes.width, 4 * sizes.width
    yield from layer("time_embed.0", embedding, width)
    yield from layer("time_embed.2", embedding, embedding)
    if sizes.label:
        yield from layer("label_emb.0.0", embedding, sizes.label)
        yield from layer("label_emb.0.2", embedding, embedding)
    yield from layer("input_blocks.0.0", width, sizes.in_channels, 3, 3)
    channels, index = width, 0
    for level, factor in enumerate(sizes.factors):
        for _ in range(sizes.blocks):
            index += 1
            yield from _residual(f"input_blocks.{index}.0", channels, factor * width, embedding)
            channels = factor * width
            yield from _transformer(f"input_blocks.{index}.1", channels, sizes.depths[level], sizes)
        if level + 1 < len(sizes.factors):
            index += 1
            yield from layer(f"input_blocks.{index}.0.op", channels, channels, 3, 3)
    yield from _residual("middle_block.0", channels, channels, embedding)
    yield from _transformer("middle_block.1", channels, sizes.middle_depth, sizes)
    yield from _residual("middle_block.2", channels, channels, embedding)


def _up(sizes: UnetSizes) -> Named:
    width, embedding = sizes.width, 4 * sizes.width
    channels, skips, index = sizes.factors[-1] * width, _skips(sizes), -1
    for level in reversed(range(len(sizes.factors))):
        for step in range(sizes.blocks + 1):
            index += 1
            block, wide = f"output_blocks.{index}", sizes.factors[level] * width
            yield from _residual(f"{block}.0", channels + skips.pop(), wide, embedding)
            channels = wide
            yield from _transformer(f"{block}.1", channels, sizes.depths[level], sizes)
            if level and step == sizes.blocks:
                place = 2 if sizes.depths[level] else 1
                yield from layer(f"{block}.{place}.conv", channels, channels, 3, 3)
    yield from layer("out.0", channels)
    yield from layer("out.2", sizes.out_channels, channels, 3, 3)


def _residual(name: str, before: int, after: int, embedding: int) -> Named:
    yield from layer(f"{name}.in_layers.0", before)
    yield from layer(f"{name}.in_layers.2", after, before, 3, 3)
    yield from layer(f"{name}.emb_layers.1", after, embedding)
    yield from layer(f"{name}.out_layers.0", after)
    yield from layer(f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        yield from layer(f"{name}.skip_connection", after, before, 1, 1)


def _transformer(name: str, width: int, depth: int, sizes: UnetSizes) -> Named:
    if depth == 0:
        return
    projection = (width, width) if sizes.linear else (width, width, 1, 1)
    yield from layer(f"{name}.norm", width)
    yield from layer(f"{name}.proj_in", *projection)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for attention, source in (("attn1", width), ("attn2", sizes.context)):
            yield f"{block}.{attention}.to_q.weight", (width, width)
            yield f"{block}.{attention}.to_k.weight", (width, source)
            yield f"{block}.{attention}.to_v.weight", (width, source)
            yield from layer(f"{block}.{attention}.to_out.0", width, width)
        yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            yield from layer(f"{block}.{norm}", width)
    yield from layer(f"{name}.proj_out", *projection)
