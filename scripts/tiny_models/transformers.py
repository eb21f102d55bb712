"""Names and shapes of the diffusion transformers: SD 3, Flux (BFL's names), Z-Image…"""

from __future__ import annotations

from .unet import Named, Shapes, layer

TIME = 256
"""Length of the sine embedding of the time step, in all of them."""


def sd3(
    width: int = 64,
    blocks: int = 2,
    context: int = 96,
    pooled: int = 80,
    places: int = 24,
    latent: int = 16,
    head: int = 32,
    normed: bool = False,
    second: int = 0,
) -> Shapes:
    """SD 3 medium; with `normed` SD 3.5 large (query and key are normalised).

    With `second` as well SD 3.5 medium: in so many blocks the picture attends to itself once more.
    """
    return dict(_sd3(width, blocks, context, pooled, places, latent, head, normed, second))


def _sd3(
    width: int,
    blocks: int,
    context: int,
    pooled: int,
    places: int,
    latent: int,
    head: int,
    normed: bool,
    second: int,
) -> Named:
    yield "pos_embed", (1, places * places, width)
    yield from layer("x_embedder.proj", width, latent, 2, 2)
    yield from layer("context_embedder", width, context)
    for name, before in (("t_embedder", TIME), ("y_embedder", pooled)):
        yield from layer(f"{name}.mlp.0", width, before)
        yield from layer(f"{name}.mlp.2", width, width)
    for number in range(blocks):
        for side in ("context_block", "x_block"):
            name = f"joint_blocks.{number}.{side}"
            # Nothing reads the text after the last block: there it only feeds the attention.
            stub = side == "context_block" and number == blocks - 1
            twice = side == "x_block" and number < second
            for attention in ("attn", "attn2") if twice else ("attn",):
                yield from layer(f"{name}.{attention}.qkv", 3 * width, width)
                if normed:
                    yield f"{name}.{attention}.ln_q.weight", (head,)
                    yield f"{name}.{attention}.ln_k.weight", (head,)
                if not stub:
                    yield from layer(f"{name}.{attention}.proj", width, width)
            parts = 2 if stub else 9 if twice else 6
            yield from layer(f"{name}.adaLN_modulation.1", parts * width, width)
            if stub:
                continue
            yield from layer(f"{name}.mlp.fc1", 4 * width, width)
            yield from layer(f"{name}.mlp.fc2", width, 4 * width)
    yield from layer("final_layer.linear", 4 * latent, width)
    yield from layer("final_layer.adaLN_modulation.1", 2 * width, width)


def flux(
    width: int = 64,
    double: int = 1,
    single: int = 2,
    context: int = 64,
    pooled: int = 32,
    latent: int = 16,
    head: int = 32,
    guided: bool = True,
    beside: int = 0,
) -> Shapes:
    """Flux in BFL's names; `guided` for dev, without for schnell; Fill has 320 `beside`."""
    shapes = dict(_flux(width, double, single, context, pooled, latent, head, guided))
    return shapes | {"img_in.weight": (width, 4 * latent + beside)}


def _flux(
    width: int,
    double: int,
    single: int,
    context: int,
    pooled: int,
    latent: int,
    head: int,
    guided: bool,
) -> Named:
    yield from layer("img_in", width, 4 * latent)
    yield from layer("txt_in", width, context)
    embedders = [("time_in", TIME), ("vector_in", pooled)]
    for name, before in [*embedders, *([("guidance_in", TIME)] if guided else [])]:
        yield from layer(f"{name}.in_layer", width, before)
        yield from layer(f"{name}.out_layer", width, width)
    for number in range(double):
        for side in ("img", "txt"):
            name = f"double_blocks.{number}.{side}"
            yield from layer(f"{name}_mod.lin", 6 * width, width)
            yield from layer(f"{name}_attn.qkv", 3 * width, width)
            yield f"{name}_attn.norm.query_norm.scale", (head,)
            yield f"{name}_attn.norm.key_norm.scale", (head,)
            yield from layer(f"{name}_attn.proj", width, width)
            yield from layer(f"{name}_mlp.0", 4 * width, width)
            yield from layer(f"{name}_mlp.2", width, 4 * width)
    for number in range(single):
        name = f"single_blocks.{number}"
        yield from layer(f"{name}.modulation.lin", 3 * width, width)
        yield from layer(f"{name}.linear1", 7 * width, width)
        yield from layer(f"{name}.linear2", width, 5 * width)
        yield f"{name}.norm.query_norm.scale", (head,)
        yield f"{name}.norm.key_norm.scale", (head,)
    yield from layer("final_layer.linear", 4 * latent, width)
    yield from layer("final_layer.adaLN_modulation.1", 2 * width, width)


def flux2(
    width: int = 64,
    double: int = 1,
    single: int = 2,
    context: int = 96,
    latent: int = 128,
    head: int = 32,
    guided: bool = False,
) -> Shapes:
    """Flux.2 in BFL's names: no biases, modulations shared by all blocks; `guided` for dev."""
    shapes: Shapes = {
        "img_in.weight": (width, latent),
        "txt_in.weight": (width, context),
        "double_stream_modulation_img.lin.weight": (6 * width, width),
        "double_stream_modulation_txt.lin.weight": (6 * width, width),
        "single_stream_modulation.lin.weight": (3 * width, width),
        "final_layer.linear.weight": (latent, width),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
    }
    for name in ("time_in", "guidance_in") if guided else ("time_in",):
        shapes[f"{name}.in_layer.weight"] = (width, TIME)
        shapes[f"{name}.out_layer.weight"] = (width, width)
    for number in range(double):
        for side in ("img", "txt"):
            name = f"double_blocks.{number}.{side}"
            shapes[f"{name}_attn.qkv.weight"] = (3 * width, width)
            shapes[f"{name}_attn.norm.query_norm.scale"] = (head,)
            shapes[f"{name}_attn.norm.key_norm.scale"] = (head,)
            shapes[f"{name}_attn.proj.weight"] = (width, width)
            shapes[f"{name}_mlp.0.weight"] = (6 * width, width)
            shapes[f"{name}_mlp.2.weight"] = (width, 3 * width)
    for number in range(single):
        name = f"single_blocks.{number}"
        shapes[f"{name}.linear1.weight"] = (9 * width, width)
        shapes[f"{name}.linear2.weight"] = (width, 4 * width)
        shapes[f"{name}.norm.query_norm.scale"] = (head,)
        shapes[f"{name}.norm.key_norm.scale"] = (head,)
    return shapes


def chroma(width: int = 64, hidden: int = 48) -> Shapes:
    """Chroma in its authors' names: Flux without modulations, and the network that makes them."""
    gone = ("time_in", "vector_in", "_mod.lin", "modulation.lin", "adaLN_modulation")
    kept = {
        name: shape
        for name, shape in flux(width=width, guided=False).items()
        if not any(part in name for part in gone)
    }
    guide = "distilled_guidance_layer"
    named = [*layer(f"{guide}.in_proj", hidden, 64), *layer(f"{guide}.out_proj", width, hidden)]
    for number in range(2):
        named += layer(f"{guide}.layers.{number}.in_layer", hidden, hidden)
        named += layer(f"{guide}.layers.{number}.out_layer", hidden, hidden)
        named.append((f"{guide}.norms.{number}.scale", (hidden,)))
    return {**kept, **dict(named)}


def z_image(
    width: int = 96, blocks: int = 2, refiners: int = 1, context: int = 64, head: int = 32
) -> Shapes:
    """Z-Image as released in one file: query, key and value in one matrix."""
    named = [
        *layer("x_embedder", width, 64),
        ("x_pad_token", (1, width)),
        ("cap_pad_token", (1, width)),
        ("cap_embedder.0.weight", (context,)),
        *layer("cap_embedder.1", width, context),
        *layer("t_embedder.mlp.0", 1024, TIME),
        *layer("t_embedder.mlp.2", min(width, TIME), 1024),
    ]
    rows = [f"layers.{i}" for i in range(blocks)]
    rows += [f"noise_refiner.{i}" for i in range(refiners)]
    for name in rows:
        named += _z_block(name, width, head)
        named += layer(f"{name}.adaLN_modulation.0", 4 * width, min(width, TIME))
    for number in range(refiners):
        named += _z_block(f"context_refiner.{number}", width, head)
    named += layer("final_layer.linear", 64, width)
    named += layer("final_layer.adaLN_modulation.1", width, min(width, TIME))
    return dict(named)


def _z_block(name: str, width: int, head: int) -> Named:
    yield f"{name}.attention.qkv.weight", (3 * width, width)
    yield f"{name}.attention.out.weight", (width, width)
    yield f"{name}.attention.q_norm.weight", (head,)
    yield f"{name}.attention.k_norm.weight", (head,)
    hidden = int(width / 3 * 8)
    yield f"{name}.feed_forward.w1.weight", (hidden, width)
    yield f"{name}.feed_forward.w2.weight", (width, hidden)
    yield f"{name}.feed_forward.w3.weight", (hidden, width)
    for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
        yield f"{name}.{norm}.weight", (width,)


def lumina2(
    width: int = 48,
    blocks: int = 2,
    refiners: int = 1,
    context: int = 32,
    head: int = 24,
    hidden: int = 192,
) -> Shapes:
    """Lumina 2 in one file: one head of keys for two of queries, and a norm that nothing runs."""
    time = min(width, 1024)
    named = [
        *layer("x_embedder", width, 64),
        ("cap_embedder.0.weight", (context,)),
        *layer("cap_embedder.1", width, context),
        *layer("t_embedder.mlp.0", time, TIME),
        *layer("t_embedder.mlp.2", time, time),
        ("norm_final.weight", (width,)),
    ]
    rows = [f"layers.{i}" for i in range(blocks)] + [f"noise_refiner.{i}" for i in range(refiners)]
    for name in [*rows, *(f"context_refiner.{i}" for i in range(refiners))]:
        named.append((f"{name}.attention.qkv.weight", (2 * width, width)))
        named.append((f"{name}.attention.out.weight", (width, width)))
        named.append((f"{name}.attention.q_norm.weight", (head,)))
        named.append((f"{name}.attention.k_norm.weight", (head,)))
        named.append((f"{name}.feed_forward.w1.weight", (hidden, width)))
        named.append((f"{name}.feed_forward.w2.weight", (width, hidden)))
        named.append((f"{name}.feed_forward.w3.weight", (hidden, width)))
        for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
            named.append((f"{name}.{norm}.weight", (width,)))
        if name in rows:
            named += layer(f"{name}.adaLN_modulation.1", 4 * width, time)
    named += layer("final_layer.linear", 64, width)
    named += layer("final_layer.adaLN_modulation.1", width, time)
    return dict(named)


def qwen_image(width: int = 64, blocks: int = 2, context: int = 48, head: int = 32) -> Shapes:
    """Qwen-Image, whose single files use diffusers' names."""
    named = [
        *layer("img_in", width, 64),
        *layer("txt_in", width, context),
        ("txt_norm.weight", (context,)),
        *layer("time_text_embed.timestep_embedder.linear_1", width, TIME),
        *layer("time_text_embed.timestep_embedder.linear_2", width, width),
    ]
    for number in range(blocks):
        block = f"transformer_blocks.{number}"
        for part in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            named += layer(f"{block}.attn.{part}", width, width)
        for part in ("to_out.0", "to_add_out"):
            named += layer(f"{block}.attn.{part}", width, width)
        for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            named.append((f"{block}.attn.{norm}.weight", (head,)))
        for side in ("img", "txt"):
            named += layer(f"{block}.{side}_mod.1", 6 * width, width)
            named += layer(f"{block}.{side}_mlp.net.0.proj", 4 * width, width)
            named += layer(f"{block}.{side}_mlp.net.2", width, 4 * width)
    named += layer("norm_out.linear", 2 * width, width)
    named += layer("proj_out", 64, width)
    return dict(named)
