"""Names and shapes of the autoencoder (latent-diffusion names) and of TAESD's decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .unet import Named, Shapes, layer


@dataclass(frozen=True, kw_only=True)
class VaeSizes:
    """Widths of an autoencoder."""

    width: int = 32
    factors: tuple[int, ...] = (1, 1, 2, 2)
    latent: int = 4
    quant: bool = True
    """SD 3 and Flux have no 1×1 convolutions around their latents."""
    blocks: int = 2


SD = VaeSizes()
SIXTEEN = replace(SD, latent=16, quant=False)
"""SD 3's, Flux's and Z-Image's kind."""
THIRTY_TWO = replace(SD, latent=32)
"""Flux.2's kind, but for its statistics; see `flux2_vae`."""


def vae(sizes: VaeSizes) -> Shapes:
    """The autoencoder, names without prefix."""
    return dict(_vae(sizes))


def flux2_vae(sizes: VaeSizes = THIRTY_TWO) -> Shapes:
    """Flux.2's autoencoder in its authors' names: the 1×1 convolutions lie inside its halves."""
    halves = {"quant_conv": "encoder", "post_quant_conv": "decoder"}
    named = {
        f"{halves[name.partition('.')[0]]}.{name}" if "quant_conv" in name else name: shape
        for name, shape in vae(sizes).items()
    }
    places = (4 * sizes.latent,)
    return {
        **named,
        "bn.running_mean": places,
        "bn.running_var": places,
        "bn.num_batches_tracked": (),
    }


def _vae(sizes: VaeSizes) -> Named:
    width, factors, last = sizes.width, sizes.factors, len(sizes.factors) - 1
    top = factors[-1] * width
    yield from layer("encoder.conv_in", width, 3, 3, 3)
    channels = width
    for level, factor in enumerate(factors):
        for block in range(sizes.blocks):
            yield from _residual(f"encoder.down.{level}.block.{block}", channels, factor * width)
            channels = factor * width
        if level != last:
            yield from layer(f"encoder.down.{level}.downsample.conv", channels, channels, 3, 3)
    yield from _middle("encoder.mid", top)
    yield from layer("encoder.norm_out", top)
    yield from layer("encoder.conv_out", 2 * sizes.latent, top, 3, 3)
    yield from layer("decoder.conv_in", top, sizes.latent, 3, 3)
    yield from _middle("decoder.mid", top)
    for level in reversed(range(len(factors))):
        for block in range(sizes.blocks + 1):
            after = factors[level] * width
            yield from _residual(f"decoder.up.{level}.block.{block}", channels, after)
            channels = after
        if level:
            yield from layer(f"decoder.up.{level}.upsample.conv", channels, channels, 3, 3)
    yield from layer("decoder.norm_out", width)
    yield from layer("decoder.conv_out", 3, width, 3, 3)
    if sizes.quant:
        yield from layer("quant_conv", 2 * sizes.latent, 2 * sizes.latent, 1, 1)
        yield from layer("post_quant_conv", sizes.latent, sizes.latent, 1, 1)


def _residual(name: str, before: int, after: int) -> Named:
    yield from layer(f"{name}.norm1", before)
    yield from layer(f"{name}.conv1", after, before, 3, 3)
    yield from layer(f"{name}.norm2", after)
    yield from layer(f"{name}.conv2", after, after, 3, 3)
    if before != after:
        yield from layer(f"{name}.nin_shortcut", after, before, 1, 1)


def _middle(name: str, width: int) -> Named:
    yield from _residual(f"{name}.block_1", width, width)
    yield from layer(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from layer(f"{name}.attn_1.{part}", width, width, 1, 1)
    yield from _residual(f"{name}.block_2", width, width)


def taef2_decoder() -> Shapes:
    """Flux.2's small decoder: TAESD's for 32 channels, normalised features in its first level."""
    named = list(taesd_decoder(32).items())
    for number in (3, 4, 5):
        named.append((f"{number}.pool.0.weight", (256, 64, 1, 1)))
        named += layer(f"{number}.pool.1", 256)
        named.append((f"{number}.pool.3.weight", (64, 256, 1, 1)))
    return dict(named)


def taesd_decoder(latent: int = 4, width: int = 64) -> Shapes:
    """TAESD's decoder: a numbered row of layers; 0, 2, 6, 11 and 16 have no weights."""
    named = list(layer("1", width, latent, 3, 3))
    for number in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        for place in (0, 2, 4):
            named += layer(f"{number}.conv.{place}", width, width, 3, 3)
    for number in (7, 12, 17):
        named.append((f"{number}.weight", (width, width, 3, 3)))
    return dict([*named, *layer("19", 3, width, 3, 3)])


def video_vae(width: int = 8, latent: int = 16) -> Shapes:
    """The VAE of Wan and Qwen-Image, in its authors' names."""
    return dict(_video_vae(width, latent))


def _video_vae(width: int, latent: int) -> Named:
    top = 4 * width
    yield from layer("encoder.conv1", width, 3, 3, 3, 3)
    place, channels = 0, width
    for level, factor in enumerate((1, 2, 4, 4)):
        for _ in range(2):
            name = f"encoder.downsamples.{place}"
            yield from _video_residual(name, channels, factor * width)
            channels, place = factor * width, place + 1
        if level < 3:
            name = f"encoder.downsamples.{place}"
            yield from layer(f"{name}.resample.1", channels, channels, 3, 3)
            if level:
                yield from layer(f"{name}.time_conv", channels, channels, 3, 1, 1)
            place += 1
    yield from _video_middle("encoder", top)
    yield from _video_head("encoder", top, 2 * latent)
    yield from layer("conv1", 2 * latent, 2 * latent, 1, 1, 1)
    yield from layer("conv2", latent, latent, 1, 1, 1)
    yield from layer("decoder.conv1", top, latent, 3, 3, 3)
    yield from _video_middle("decoder", top)
    place, channels = 0, top
    for level, factor in enumerate((4, 4, 2, 1)):
        for _ in range(3):
            name = f"decoder.upsamples.{place}"
            yield from _video_residual(name, channels, factor * width)
            channels, place = factor * width, place + 1
        if level < 3:
            name = f"decoder.upsamples.{place}"
            yield from layer(f"{name}.resample.1", channels // 2, channels, 3, 3)
            if level < 2:
                yield from layer(f"{name}.time_conv", 2 * channels, channels, 3, 1, 1)
            channels, place = channels // 2, place + 1
    yield from _video_head("decoder", width, 3)


def _video_residual(name: str, before: int, after: int) -> Named:
    yield f"{name}.residual.0.gamma", (before, 1, 1, 1)
    yield from layer(f"{name}.residual.2", after, before, 3, 3, 3)
    yield f"{name}.residual.3.gamma", (after, 1, 1, 1)
    yield from layer(f"{name}.residual.6", after, after, 3, 3, 3)
    if before != after:
        yield from layer(f"{name}.shortcut", after, before, 1, 1, 1)


def _video_middle(side: str, width: int) -> Named:
    yield from _video_residual(f"{side}.middle.0", width, width)
    yield f"{side}.middle.1.norm.gamma", (width, 1, 1)
    yield from layer(f"{side}.middle.1.to_qkv", 3 * width, width, 1, 1)
    yield from layer(f"{side}.middle.1.proj", width, width, 1, 1)
    yield from _video_residual(f"{side}.middle.2", width, width)


def _video_head(side: str, width: int, after: int) -> Named:
    yield f"{side}.head.0.gamma", (width, 1, 1, 1)
    yield from layer(f"{side}.head.2", after, width, 3, 3, 3)
