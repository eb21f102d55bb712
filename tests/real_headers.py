"""Names and shapes of every tensor in the model files that users have, at their full size.

Written from the networks' definitions, not from files, and compared with diffusers' modules and
converters in `models/test_real_headers.py`. `REAL` lists them; `sparse_checkpoint` makes files of
them that take no disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from sdforge.models.families.sd_keys import Sizes, checkpoint_shapes, clip_shapes, vae_shapes

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Named = Iterator[tuple[str, Shape]]
UNET, VAE = "model.diffusion_model.", "first_stage_model."


@dataclass(frozen=True)
class Real:
    """One file: its name, its tensors, and what it is to be known as."""

    file: str
    make: Callable[[], Shapes]
    family: str
    variant: str
    dtype: str = "F16"
    parts: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def _layer(name: str, *shape: int) -> Named:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _below(prefix: str, named: Named | Mapping[str, Shape]) -> Shapes:
    return {prefix + name: shape for name, shape in dict(named).items()}


# --- Stable Diffusion's U-Nets --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UNet:
    """Arguments of a U-Net; `depths` are transformer blocks per level, the last of the middle."""

    width: int = 320
    factors: tuple[int, ...] = (1, 2, 4)
    depths: tuple[int, ...] = (0, 2, 10, 10)
    context: int = 2048
    labels: int = 2816
    channels: int = 4


def ldm_unet(net: UNet) -> Named:
    """Yield the tensors of a U-Net in the layout of the original files, linear projections."""
    width, embedding = net.width, 4 * net.width
    yield from _layer("time_embed.0", embedding, width)
    yield from _layer("time_embed.2", embedding, embedding)
    if net.labels:
        yield from _layer("label_emb.0.0", embedding, net.labels)
        yield from _layer("label_emb.0.2", embedding, embedding)
    yield from _layer("input_blocks.0.0", width, net.channels, 3, 3)
    channels, index, skips, last = width, 0, [width], len(net.factors) - 1
    for level, factor in enumerate(net.factors):
        for _ in range(2):
            index += 1
            yield from _residual(
                f"input_blocks.{index}.0", channels, channels := factor * width, embedding
            )
            yield from _attention(f"input_blocks.{index}.1", channels, net, net.depths[level])
            skips.append(channels)
        if level != last:
            index += 1
            yield from _layer(f"input_blocks.{index}.0.op", channels, channels, 3, 3)
            skips.append(channels)
    yield from _residual("middle_block.0", channels, channels, embedding)
    yield from _attention("middle_block.1", channels, net, net.depths[-1])
    yield from _residual("middle_block.2", channels, channels, embedding)
    index = -1
    for level, factor in reversed(list(enumerate(net.factors))):
        for step in range(3):
            index += 1
            block = f"output_blocks.{index}"
            before = channels + skips.pop()
            yield from _residual(f"{block}.0", before, channels := factor * width, embedding)
            yield from _attention(f"{block}.1", channels, net, net.depths[level])
            if level and step == 2:
                place = 2 if net.depths[level] else 1
                yield from _layer(f"{block}.{place}.conv", channels, channels, 3, 3)
    yield from _layer("out.0", channels)
    yield from _layer("out.2", 4, channels, 3, 3)


def _residual(name: str, before: int, after: int, embedding: int) -> Named:
    yield from _layer(f"{name}.in_layers.0", before)
    yield from _layer(f"{name}.in_layers.2", after, before, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", after, embedding)
    yield from _layer(f"{name}.out_layers.0", after)
    yield from _layer(f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        yield from _layer(f"{name}.skip_connection", after, before, 1, 1)


def _attention(name: str, width: int, net: UNet, depth: int) -> Named:
    if not depth:
        return
    yield from _layer(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", width, width)
    for place in range(depth):
        block = f"{name}.transformer_blocks.{place}"
        for attention, source in (("attn1", width), ("attn2", net.context)):
            yield f"{block}.{attention}.to_q.weight", (width, width)
            yield f"{block}.{attention}.to_k.weight", (width, source)
            yield f"{block}.{attention}.to_v.weight", (width, source)
            yield from _layer(f"{block}.{attention}.to_out.0", width, width)
        yield from _layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from _layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            yield from _layer(f"{block}.{norm}", width)
    yield from _layer(f"{name}.proj_out", width, width)


def open_clip(width: int, layers: int) -> Named:
    """Yield the tensors of OpenCLIP's text encoder."""
    yield "positional_embedding", (77, width)
    yield "text_projection", (width, width)
    yield "logit_scale", ()
    yield "token_embedding.weight", (49408, width)
    yield from _layer("ln_final", width)
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from _layer(f"{block}.attn.out_proj", width, width)
        yield from _layer(f"{block}.ln_1", width)
        yield from _layer(f"{block}.ln_2", width)
        yield from _layer(f"{block}.mlp.c_fc", 4 * width, width)
        yield from _layer(f"{block}.mlp.c_proj", width, 4 * width)


SD2 = UNet(factors=(1, 2, 4, 4), depths=(1, 1, 1, 0, 1), context=1024, labels=0)
SDXL = UNet()
REFINER = UNet(width=384, factors=(1, 2, 4, 4), depths=(0, 4, 4, 0, 4), context=1280, labels=2560)
_SCHEDULE = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip


def _schedule() -> Shapes:
    return dict.fromkeys(_SCHEDULE, (1000,))


def sd15() -> Shapes:
    positions = {"cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77)}
    return {**checkpoint_shapes(Sizes()), **_schedule(), **positions}


def sd21() -> Shapes:
    return {
        **_schedule(),
        **_below(UNET, ldm_unet(SD2)),
        **_below(VAE, vae_shapes(Sizes())),
        **_below("cond_stage_model.model.", open_clip(1024, 24)),
    }


def sdxl(net: UNet = SDXL) -> Shapes:
    first, second = "conditioner.embedders.0.", "conditioner.embedders.1."
    return {
        **_below(f"{first}transformer.text_model.", clip_shapes(Sizes())),
        **_below(f"{second}model.", open_clip(1280, 32)),
        **_below(VAE, vae_shapes(Sizes())),
        **_below(UNET, ldm_unet(net)),
    }


def refiner() -> Shapes:
    return {
        **_below("conditioner.embedders.0.model.", open_clip(1280, 32)),
        **_below(VAE, vae_shapes(Sizes())),
        **_below(UNET, ldm_unet(REFINER)),
    }


# --- transformers ---------------------------------------------------------------------------------


def mmdit(depth: int, *, second: int = 0, norms: bool = True, places: int = 192) -> Named:
    """Yield the tensors of SD 3's transformer; the first `second` blocks have two attentions."""
    width = 64 * depth
    yield "pos_embed", (1, places * places, width)
    yield from _layer("x_embedder.proj", width, 16, 2, 2)
    yield from _layer("context_embedder", width, 4096)
    yield from _layer("t_embedder.mlp.0", width, 256)
    yield from _layer("t_embedder.mlp.2", width, width)
    yield from _layer("y_embedder.mlp.0", width, 2048)
    yield from _layer("y_embedder.mlp.2", width, width)
    for block in range(depth):
        for side in ("context_block", "x_block"):
            name = f"joint_blocks.{block}.{side}"
            is_last = side == "context_block" and block == depth - 1
            twice = side == "x_block" and block < second
            for attention in ("attn", "attn2") if twice else ("attn",):
                yield from _layer(f"{name}.{attention}.qkv", 3 * width, width)
                if norms:
                    yield f"{name}.{attention}.ln_q.weight", (64,)
                    yield f"{name}.{attention}.ln_k.weight", (64,)
                if not is_last:
                    yield from _layer(f"{name}.{attention}.proj", width, width)
            parts = 2 if is_last else 9 if twice else 6
            yield from _layer(f"{name}.adaLN_modulation.1", parts * width, width)
            if not is_last:
                yield from _layer(f"{name}.mlp.fc1", 4 * width, width)
                yield from _layer(f"{name}.mlp.fc2", width, 4 * width)
    yield from _layer("final_layer.adaLN_modulation.1", 2 * width, width)
    yield from _layer("final_layer.linear", 64, width)


def sd3(depth: int, **arguments: int | bool) -> Shapes:
    latents = Sizes(latent_channels=16)
    vae = {k: v for k, v in vae_shapes(latents).items() if "quant_conv" not in k}
    return {**_below(UNET, mmdit(depth, **arguments)), **_below(VAE, vae)}  # type: ignore[arg-type]


def flux(*, guidance: bool, channels: int = 64, width: int = 3072) -> Named:
    """Yield the tensors of Flux.1's transformer in the layout of its authors."""
    yield from _layer("img_in", width, channels)
    yield from _layer("txt_in", width, 4096)
    for name, size in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        if guidance or name != "guidance_in":
            yield from _layer(f"{name}.in_layer", width, size)
            yield from _layer(f"{name}.out_layer", width, width)
    yield from _flux_blocks(width, modulated=True)
    yield from _layer("final_layer.adaLN_modulation.1", 2 * width, width)
    yield from _layer("final_layer.linear", 64, width)


def flux2(
    width: int = 3072,
    double: int = 5,
    single: int = 20,
    text: int = 7680,
    *,
    guidance: bool = False,
) -> Named:
    """Yield the tensors of Flux.2's transformer in the layout of its authors; [klein] 4B's."""
    yield "img_in.weight", (width, 128)
    yield "txt_in.weight", (width, text)
    for name in ("time_in", "guidance_in") if guidance else ("time_in",):
        yield f"{name}.in_layer.weight", (width, 256)
        yield f"{name}.out_layer.weight", (width, width)
    for side in ("img", "txt"):
        yield f"double_stream_modulation_{side}.lin.weight", (6 * width, width)
    yield "single_stream_modulation.lin.weight", (3 * width, width)
    for block in range(double):
        for side in ("img", "txt"):
            name = f"double_blocks.{block}.{side}"
            yield f"{name}_attn.qkv.weight", (3 * width, width)
            yield f"{name}_attn.proj.weight", (width, width)
            yield f"{name}_attn.norm.query_norm.scale", (128,)
            yield f"{name}_attn.norm.key_norm.scale", (128,)
            yield f"{name}_mlp.0.weight", (6 * width, width)
            yield f"{name}_mlp.2.weight", (width, 3 * width)
    for block in range(single):
        name = f"single_blocks.{block}"
        yield f"{name}.linear1.weight", (9 * width, width)
        yield f"{name}.linear2.weight", (width, 4 * width)
        yield f"{name}.norm.query_norm.scale", (128,)
        yield f"{name}.norm.key_norm.scale", (128,)
    yield "final_layer.adaLN_modulation.1.weight", (2 * width, width)
    yield "final_layer.linear.weight", (128, width)


FLUX2_9B = {"width": 4096, "double": 8, "single": 24, "text": 12288}
FLUX2_DEV = {"width": 6144, "double": 8, "single": 48, "text": 15360}


def _flux_blocks(width: int, *, modulated: bool) -> Named:
    for block in range(19):
        for side in ("img", "txt"):
            name = f"double_blocks.{block}.{side}"
            if modulated:
                yield from _layer(f"{name}_mod.lin", 6 * width, width)
            yield from _layer(f"{name}_attn.qkv", 3 * width, width)
            yield from _layer(f"{name}_attn.proj", width, width)
            yield f"{name}_attn.norm.query_norm.scale", (128,)
            yield f"{name}_attn.norm.key_norm.scale", (128,)
            yield from _layer(f"{name}_mlp.0", 4 * width, width)
            yield from _layer(f"{name}_mlp.2", width, 4 * width)
    for block in range(38):
        name = f"single_blocks.{block}"
        yield from _layer(f"{name}.linear1", 7 * width, width)
        yield from _layer(f"{name}.linear2", width, 5 * width)
        yield f"{name}.norm.query_norm.scale", (128,)
        yield f"{name}.norm.key_norm.scale", (128,)
        if modulated:
            yield from _layer(f"{name}.modulation.lin", 3 * width, width)


def chroma(width: int = 3072) -> Named:
    """Yield the tensors of Chroma: Flux's blocks, modulated by a network of their own."""
    yield from _layer("img_in", width, 64)
    yield from _layer("txt_in", width, 4096)
    yield from _flux_blocks(width, modulated=False)
    yield from _layer("final_layer.linear", 64, width)
    guide, hidden = "distilled_guidance_layer", 5120
    yield from _layer(f"{guide}.in_proj", hidden, 64)
    yield from _layer(f"{guide}.out_proj", width, hidden)
    for layer in range(5):
        yield from _layer(f"{guide}.layers.{layer}.in_layer", hidden, hidden)
        yield from _layer(f"{guide}.layers.{layer}.out_layer", hidden, hidden)
        yield f"{guide}.norms.{layer}.scale", (hidden,)


def z_image(width: int = 3840, text: int = 2560) -> Named:
    """Yield the tensors of Z-Image's transformer as single files have them."""
    yield from _layer("x_embedder", width, 64)
    yield from _layer("t_embedder.mlp.0", 1024, 256)
    yield from _layer("t_embedder.mlp.2", 256, 1024)
    yield "cap_embedder.0.weight", (text,)
    yield from _layer("cap_embedder.1", width, text)
    yield "x_pad_token", (1, width)
    yield "cap_pad_token", (1, width)
    for kind, count in (("noise_refiner", 2), ("context_refiner", 2), ("layers", 30)):
        for block in range(count):
            name = f"{kind}.{block}"
            yield f"{name}.attention.qkv.weight", (3 * width, width)
            yield f"{name}.attention.out.weight", (width, width)
            yield f"{name}.attention.q_norm.weight", (128,)
            yield f"{name}.attention.k_norm.weight", (128,)
            for part, shape in (
                ("w1", (10240, width)),
                ("w2", (width, 10240)),
                ("w3", (10240, width)),
            ):  # noqa: E501
                yield f"{name}.feed_forward.{part}.weight", shape
            for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
                yield f"{name}.{norm}.weight", (width,)
            if kind != "context_refiner":
                yield from _layer(f"{name}.adaLN_modulation.0", 4 * width, 256)
    yield from _layer("final_layer.linear", 64, width)
    yield from _layer("final_layer.adaLN_modulation.1", width, 256)


def lumina2(width: int = 2304, text: int = 2304) -> Named:
    """Yield the tensors of Lumina-Image 2.0's transformer as single files have them."""
    yield from _layer("x_embedder", width, 64)
    yield from _layer("t_embedder.mlp.0", 1024, 256)
    yield from _layer("t_embedder.mlp.2", 1024, 1024)
    yield "cap_embedder.0.weight", (text,)
    yield from _layer("cap_embedder.1", width, text)
    yield "norm_final.weight", (width,)
    for kind, count in (("noise_refiner", 2), ("context_refiner", 2), ("layers", 26)):
        for block in range(count):
            name = f"{kind}.{block}"
            yield f"{name}.attention.qkv.weight", (width + 2 * 768, width)
            yield f"{name}.attention.out.weight", (width, width)
            yield f"{name}.attention.q_norm.weight", (96,)
            yield f"{name}.attention.k_norm.weight", (96,)
            for part, shape in (
                ("w1", (4 * width, width)),
                ("w2", (width, 4 * width)),
                ("w3", (4 * width, width)),
            ):
                yield f"{name}.feed_forward.{part}.weight", shape
            for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
                yield f"{name}.{norm}.weight", (width,)
            if kind != "context_refiner":
                yield from _layer(f"{name}.adaLN_modulation.1", 4 * width, 1024)
    yield from _layer("final_layer.linear", 64, width)
    yield from _layer("final_layer.adaLN_modulation.1", width, 1024)


def qwen_image(width: int = 3072, depth: int = 60) -> Named:
    """Yield the tensors of Qwen-Image's transformer, which all files name as diffusers does."""
    yield from _layer("img_in", width, 64)
    yield from _layer("txt_in", width, 3584)
    yield "txt_norm.weight", (3584,)
    yield from _layer("time_text_embed.timestep_embedder.linear_1", width, 256)
    yield from _layer("time_text_embed.timestep_embedder.linear_2", width, width)
    for block in range(depth):
        name = f"transformer_blocks.{block}"
        for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            yield f"{name}.attn.{norm}.weight", (128,)
        for part in (
            "to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0",
            "to_add_out",
        ):  # fmt: skip
            yield from _layer(f"{name}.attn.{part}", width, width)
        for side in ("img", "txt"):
            yield from _layer(f"{name}.{side}_mod.1", 6 * width, width)
            yield from _layer(f"{name}.{side}_mlp.net.0.proj", 4 * width, width)
            yield from _layer(f"{name}.{side}_mlp.net.2", width, 4 * width)
    yield from _layer("norm_out.linear", 2 * width, width)
    yield from _layer("proj_out", 64, width)


# --- single networks ------------------------------------------------------------------------------


def t5_xxl() -> Named:
    """Yield the tensors of T5-XXL's encoder."""
    yield "shared.weight", (32128, 4096)
    yield "encoder.embed_tokens.weight", (32128, 4096)
    for block in range(24):
        name = f"encoder.block.{block}.layer"
        for part in "qkvo":
            yield f"{name}.0.SelfAttention.{part}.weight", (4096, 4096)
        if not block:
            yield f"{name}.0.SelfAttention.relative_attention_bias.weight", (32, 64)
        yield f"{name}.0.layer_norm.weight", (4096,)
        for part, shape in (
            ("wi_0", (10240, 4096)),
            ("wi_1", (10240, 4096)),
            ("wo", (4096, 10240)),
        ):  # noqa: E501
            yield f"{name}.1.DenseReluDense.{part}.weight", shape
        yield f"{name}.1.layer_norm.weight", (4096,)
    yield "encoder.final_layer_norm.weight", (4096,)


def clip_l() -> Shapes:
    return {f"text_model.{name}": shape for name, shape in clip_shapes(Sizes()).items()}


def ae() -> Shapes:
    vae = vae_shapes(Sizes(latent_channels=16))
    return {name: shape for name, shape in vae.items() if "quant_conv" not in name}


def flux2_vae() -> Shapes:
    """Flux.2's, whose 1×1 convolutions lie inside its halves."""
    halves = {"quant_conv": "encoder.", "post_quant_conv": "decoder."}
    vae = vae_shapes(Sizes(latent_channels=32))
    inside = {halves.get(name.partition(".")[0], "") + name: shape for name, shape in vae.items()}
    return {**inside, "bn.running_mean": (128,), "bn.running_var": (128,)}


_WHOLE = ("denoiser", "text_encoder", "vae")
REAL: tuple[Real, ...] = (
    Real("v1-5-pruned-emaonly", sd15, "sd1", "standard", "F32", _WHOLE),
    Real("v2-1_768-ema-pruned", sd21, "sd2", "standard", "F32", _WHOLE),
    Real(
        "sd_xl_base_1.0",
        sdxl,
        "sdxl",
        "base",
        parts=("denoiser", "text_encoder", "text_encoder", "vae"),
    ),
    Real("sd_xl_refiner_1.0", refiner, "sdxl-refiner", "refiner", parts=_WHOLE),
    Real("sd_xl_inpainting", lambda: sdxl(UNet(channels=9)), "sdxl", "inpainting"),
    Real("sd3.5_large", lambda: sd3(38), "sd3", "3.5-large", parts=("denoiser", "vae")),
    Real(
        "sd3.5_medium",
        lambda: sd3(24, second=13, places=384),
        "sd3",
        "3.5-medium",
        parts=("denoiser", "vae"),
    ),
    Real("sd3_medium", lambda: sd3(24, norms=False), "sd3", "medium"),
    Real("flux1-dev", lambda: dict(flux(guidance=True)), "flux", "dev", "BF16", ("denoiser",)),
    Real(
        "flux1-schnell",
        lambda: dict(flux(guidance=False)),
        "flux",
        "schnell",
        "BF16",
        ("denoiser",),
    ),
    Real("flux1-fill-dev", lambda: dict(flux(guidance=True, channels=384)), "flux", "fill", "BF16"),
    Real("flux-2-klein-4b", lambda: dict(flux2()), "flux2-klein", "standard", "BF16"),
    Real(
        "flux-2-klein-9b",
        lambda: dict(flux2(**FLUX2_9B)),
        "flux2-klein",
        "standard",
        "BF16",
        ("denoiser",),
    ),
    Real(
        "flux2-dev",
        lambda: dict(flux2(**FLUX2_DEV, guidance=True)),
        "flux2",
        "dev",
        "BF16",
        ("denoiser",),
    ),
    Real("chroma-unlocked", lambda: dict(chroma()), "chroma", "standard", "BF16", ("denoiser",)),
    Real(
        "z_image_turbo_bf16", lambda: dict(z_image()), "zimage", "standard", "BF16", ("denoiser",)
    ),
    Real(
        "lumina_2_model_bf16",
        lambda: dict(lumina2()),
        "lumina2",
        "standard",
        "BF16",
        ("denoiser",),
    ),
    Real(
        "qwen_image_fp8_e4m3fn",
        lambda: dict(qwen_image()),
        "qwen-image",
        "standard",
        "F8_E4M3",
        ("denoiser",),
    ),
)
COMPANIONS: tuple[tuple[str, Callable[[], Shapes], str], ...] = (
    ("t5xxl_fp16", lambda: dict(t5_xxl()), "t5"),
    ("clip_l", clip_l, "clip_l"),
    ("clip_g_open", lambda: dict(open_clip(1280, 32)), "clip_g"),
    ("ae", ae, "kl-16"),
    ("flux2-vae", flux2_vae, "flux2"),
    ("vae-ft-mse-840000-ema-pruned", lambda: dict(vae_shapes(Sizes())), "kl-4"),
)
