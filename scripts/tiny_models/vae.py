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


def vae(sizes: VaeSizes) -> Shapes:
    """The autoencoder, names without prefix."""
    return dict(_vae(sizes))


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


def taesd_decoder(latent: int = 4, width: int = 64) -> Shapes:
    """TAESD's decoder: a numbered row of layers; 0, 2, 6, 11 and 16 have no weights."""
    named = list(layer("1", width, latent, 3, 3))
    for number in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        for place in (0, 2, 4):
            named += layer(f"{number}.conv.{place}", width, width, 3, 3)
    for number in (7, 12, 17):
        named.append((f"{number}.weight", (width, width, 3, 3)))
    return dict([*named, *layer("19", 3, width, 3, 3)])
