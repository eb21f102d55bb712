"""Names and shapes of every tensor in a Stable Diffusion 1.x checkpoint of given widths.

Written out from the layout of the original networks, to make checkpoints: the tiny ones of tests, a
full-size one for measurements. Reading goes the other way and never uses this (`sd_shapes.py`).
`tensor_names` of a loaded module are found by `sd.StableDiffusion1.recipe(...).sources`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sdforge.models.families.sd_shapes import TEXT, UNET, VAE

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]
_PLACES = 77


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Widths of the three networks; the defaults are SD 1.5's."""

    unet_width: int = 320
    unet_factors: tuple[int, ...] = (1, 2, 4, 4)
    in_channels: int = 4
    text_width: int = 768
    text_layers: int = 12
    vocabulary: int = 49408
    vae_width: int = 128
    vae_factors: tuple[int, ...] = (1, 2, 4, 4)
    latent_channels: int = 4
    blocks: int = 2


def checkpoint_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Return name → shape of all tensors of a checkpoint, in the order of the original files."""
    return {
        **{UNET + name: shape for name, shape in unet_shapes(sizes).items()},
        **{VAE + name: shape for name, shape in vae_shapes(sizes).items()},
        **{f"{TEXT}text_model.{name}": shape for name, shape in clip_shapes(sizes).items()},
    }


def unet_shapes(sizes: Sizes) -> Mapping[str, Shape]:
    """Return the U-Net's tensors, names without prefix."""
    return dict(_unet(sizes))


def vae_shapes(sizes: Sizes) -> Mapping[str, Shape]:
    """Return the VAE's tensors, names without prefix."""
    return dict(_vae(sizes))


def clip_shapes(sizes: Sizes) -> Mapping[str, Shape]:
    """Return the text encoder's tensors, names without prefix."""
    return dict(_clip(sizes))


def _layer(name: str, *shape: int) -> Named:
    """A layer with a bias; one of a single dimension is a normalisation."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _unet(sizes: Sizes) -> Named:
    width, factors = sizes.unet_width, sizes.unet_factors
    embedding = 4 * width
    yield from _layer("time_embed.0", embedding, width)
    yield from _layer("time_embed.2", embedding, embedding)
    yield from _layer("input_blocks.0.0", width, sizes.in_channels, 3, 3)
    channels, index, skips = width, 0, [width]
    last = len(factors) - 1
    for level, factor in enumerate(factors):
        for _ in range(sizes.blocks):
            index += 1
            block = f"input_blocks.{index}"
            yield from _residual(f"{block}.0", channels, factor * width, embedding)
            channels = factor * width
            if level != last:
                yield from _transformer(f"{block}.1", channels, sizes.text_width)
            skips.append(channels)
        if level != last:
            index += 1
            yield from _layer(f"input_blocks.{index}.0.op", channels, channels, 3, 3)
            skips.append(channels)
    yield from _residual("middle_block.0", channels, channels, embedding)
    yield from _transformer("middle_block.1", channels, sizes.text_width)
    yield from _residual("middle_block.2", channels, channels, embedding)
    index = -1
    for level, factor in reversed(list(enumerate(factors))):
        for step in range(sizes.blocks + 1):
            index += 1
            block = f"output_blocks.{index}"
            yield from _residual(f"{block}.0", channels + skips.pop(), factor * width, embedding)
            channels = factor * width
            if level != last:
                yield from _transformer(f"{block}.1", channels, sizes.text_width)
            if level and step == sizes.blocks:
                place = 1 if level == last else 2
                yield from _layer(f"{block}.{place}.conv", channels, channels, 3, 3)
    yield from _layer("out.0", channels)
    yield from _layer("out.2", sizes.latent_channels, channels, 3, 3)


def _residual(name: str, before: int, after: int, embedding: int) -> Named:
    yield from _layer(f"{name}.in_layers.0", before)
    yield from _layer(f"{name}.in_layers.2", after, before, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", after, embedding)
    yield from _layer(f"{name}.out_layers.0", after)
    yield from _layer(f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        yield from _layer(f"{name}.skip_connection", after, before, 1, 1)


def _transformer(name: str, width: int, context: int) -> Named:
    yield from _layer(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", width, width, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, source in (("attn1", width), ("attn2", context)):
        yield f"{block}.{attention}.to_q.weight", (width, width)
        yield f"{block}.{attention}.to_k.weight", (width, source)
        yield f"{block}.{attention}.to_v.weight", (width, source)
        yield from _layer(f"{block}.{attention}.to_out.0", width, width)
    yield from _layer(f"{block}.ff.net.0.proj", 8 * width, width)
    yield from _layer(f"{block}.ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        yield from _layer(f"{block}.{norm}", width)
    yield from _layer(f"{name}.proj_out", width, width, 1, 1)


def _vae(sizes: Sizes) -> Named:
    width, factors, latent = sizes.vae_width, sizes.vae_factors, sizes.latent_channels
    top, last = factors[-1] * width, len(factors) - 1
    yield from _layer("encoder.conv_in", width, 3, 3, 3)
    channels = width
    for level, factor in enumerate(factors):
        for block in range(sizes.blocks):
            name = f"encoder.down.{level}.block.{block}"
            yield from _vae_residual(name, channels, factor * width)
            channels = factor * width
        if level != last:
            yield from _layer(f"encoder.down.{level}.downsample.conv", channels, channels, 3, 3)
    yield from _vae_middle("encoder.mid", top)
    yield from _layer("encoder.norm_out", top)
    yield from _layer("encoder.conv_out", 2 * latent, top, 3, 3)
    yield from _layer("decoder.conv_in", top, latent, 3, 3)
    yield from _vae_middle("decoder.mid", top)
    for level, factor in reversed(list(enumerate(factors))):
        for block in range(sizes.blocks + 1):
            name = f"decoder.up.{level}.block.{block}"
            yield from _vae_residual(name, channels, factor * width)
            channels = factor * width
        if level:
            yield from _layer(f"decoder.up.{level}.upsample.conv", channels, channels, 3, 3)
    yield from _layer("decoder.norm_out", width)
    yield from _layer("decoder.conv_out", 3, width, 3, 3)
    yield from _layer("quant_conv", 2 * latent, 2 * latent, 1, 1)
    yield from _layer("post_quant_conv", latent, latent, 1, 1)


def _vae_residual(name: str, before: int, after: int) -> Named:
    yield from _layer(f"{name}.norm1", before)
    yield from _layer(f"{name}.conv1", after, before, 3, 3)
    yield from _layer(f"{name}.norm2", after)
    yield from _layer(f"{name}.conv2", after, after, 3, 3)
    if before != after:
        yield from _layer(f"{name}.nin_shortcut", after, before, 1, 1)


def _vae_middle(name: str, width: int) -> Named:
    yield from _vae_residual(f"{name}.block_1", width, width)
    yield from _layer(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{name}.attn_1.{part}", width, width, 1, 1)
    yield from _vae_residual(f"{name}.block_2", width, width)


def _clip(sizes: Sizes) -> Named:
    width = sizes.text_width
    yield "embeddings.token_embedding.weight", (sizes.vocabulary, width)
    yield "embeddings.position_embedding.weight", (_PLACES, width)
    for layer in range(sizes.text_layers):
        name = f"encoder.layers.{layer}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _layer(f"{name}.self_attn.{part}", width, width)
        yield from _layer(f"{name}.layer_norm1", width)
        yield from _layer(f"{name}.mlp.fc1", 4 * width, width)
        yield from _layer(f"{name}.mlp.fc2", width, 4 * width)
        yield from _layer(f"{name}.layer_norm2", width)
    yield from _layer("final_layer_norm", width)
