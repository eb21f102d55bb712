"""Names and shapes of text encoders: CLIP in its two spellings, and T5's encoder half."""

from __future__ import annotations

from dataclasses import dataclass

from .unet import Named, Shapes, layer

PLACES = 77


@dataclass(frozen=True, kw_only=True)
class TextSizes:
    """Widths of a text encoder."""

    width: int = 32
    layers: int = 2
    vocabulary: int = 49408
    projection: bool = False
    """Whether a projection of the pooled text belongs to it (CLIP-G)."""


CLIP_L = TextSizes()
CLIP_G = TextSizes(width=48, layers=3, projection=True)
OPEN_CLIP_H = TextSizes(width=48, layers=3, projection=True)
T5 = TextSizes(width=64, vocabulary=32128)
WIDE_T5 = TextSizes(width=96, vocabulary=32128)
"""SD 3's, which both CLIPs beside each other fit into."""


def clip(sizes: TextSizes) -> Shapes:
    """CLIP as transformers names it, `text_model.` in front, as files do."""
    return {
        **{f"text_model.{name}": shape for name, shape in _clip(sizes)},
        **({"text_projection.weight": (sizes.width,) * 2} if sizes.projection else {}),
    }


def _clip(sizes: TextSizes) -> Named:
    width = sizes.width
    yield "embeddings.token_embedding.weight", (sizes.vocabulary, width)
    yield "embeddings.position_embedding.weight", (PLACES, width)
    for number in range(sizes.layers):
        name = f"encoder.layers.{number}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from layer(f"{name}.self_attn.{part}", width, width)
        yield from layer(f"{name}.layer_norm1", width)
        yield from layer(f"{name}.mlp.fc1", 4 * width, width)
        yield from layer(f"{name}.mlp.fc2", width, 4 * width)
        yield from layer(f"{name}.layer_norm2", width)
    yield from layer("final_layer_norm", width)


def open_clip(sizes: TextSizes) -> Shapes:
    """CLIP as OpenCLIP names it: one matrix for query, key and value; projections without layer."""
    return dict(_open_clip(sizes))


def _open_clip(sizes: TextSizes) -> Named:
    width = sizes.width
    yield "positional_embedding", (PLACES, width)
    yield "text_projection", (width, width)
    yield "logit_scale", ()
    yield "token_embedding.weight", (sizes.vocabulary, width)
    for number in range(sizes.layers):
        name = f"transformer.resblocks.{number}"
        yield from layer(f"{name}.ln_1", width)
        yield f"{name}.attn.in_proj_weight", (3 * width, width)
        yield f"{name}.attn.in_proj_bias", (3 * width,)
        yield from layer(f"{name}.attn.out_proj", width, width)
        yield from layer(f"{name}.ln_2", width)
        yield from layer(f"{name}.mlp.c_fc", 4 * width, width)
        yield from layer(f"{name}.mlp.c_proj", width, 4 * width)
    yield from layer("ln_final", width)


def t5(sizes: TextSizes = T5, heads: int = 2, buckets: int = 32) -> Shapes:
    """T5 v1.1's encoder: gated feed-forward, position bias in the first block only."""
    width = sizes.width
    shapes: Shapes = {
        "shared.weight": (sizes.vocabulary, width),
        "encoder.embed_tokens.weight": (sizes.vocabulary, width),
        "encoder.final_layer_norm.weight": (width,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (buckets, heads),
    }
    for number in range(sizes.layers):
        block = f"encoder.block.{number}"
        for part in "qkvo":
            shapes[f"{block}.layer.0.SelfAttention.{part}.weight"] = (width, width)
        shapes[f"{block}.layer.0.layer_norm.weight"] = (width,)
        shapes[f"{block}.layer.1.DenseReluDense.wi_0.weight"] = (2 * width, width)
        shapes[f"{block}.layer.1.DenseReluDense.wi_1.weight"] = (2 * width, width)
        shapes[f"{block}.layer.1.DenseReluDense.wo.weight"] = (width, 2 * width)
        shapes[f"{block}.layer.1.layer_norm.weight"] = (width,)
    return shapes


def qwen25(width: int = 32, layers: int = 2, heads: int = 2, head: int = 16) -> Shapes:
    """Qwen2.5-VL's text part: biases instead of norms, and one pair of keys and values."""
    shapes = {
        name: shape
        for name, shape in qwen3(width, layers, heads, 1, head, rows=152064).items()
        if not name.endswith(("q_norm.weight", "k_norm.weight"))
    }
    for number in range(layers):
        for part, count in (("q", heads), ("k", 1), ("v", 1)):
            shapes[f"model.layers.{number}.self_attn.{part}_proj.bias"] = (count * head,)
    return shapes


def qwen_vision(width: int = 32, layers: int = 2, hidden: int = 96, out: int = 32) -> Shapes:
    """What Qwen2.5-VL sees with: patches of two frames, fused queries, keys and values."""
    shapes: Shapes = {"visual.patch_embed.proj.weight": (width, 3, 2, 14, 14)}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    for number in range(layers):
        block = f"visual.blocks.{number}"
        for norm in ("norm1", "norm2"):
            shapes[f"{block}.{norm}.weight"] = (width,)
        linear(f"{block}.attn.qkv", 3 * width, width)
        linear(f"{block}.attn.proj", width, width)
        linear(f"{block}.mlp.gate_proj", hidden, width)
        linear(f"{block}.mlp.up_proj", hidden, width)
        linear(f"{block}.mlp.down_proj", width, hidden)
    shapes["visual.merger.ln_q.weight"] = (width,)
    linear("visual.merger.mlp.0", 4 * width, 4 * width)
    linear("visual.merger.mlp.2", out, 4 * width)
    return shapes


def mistral(
    width: int = 32, layers: int = 31, heads: int = 2, head: int = 16, rows: int = 400
) -> Shapes:
    """Mistral Small: neither norms nor biases; one pair; a vocabulary for `words.py`."""
    return {
        name: shape
        for name, shape in qwen3(width, layers, heads, 1, head, rows=rows).items()
        if not name.endswith(("q_norm.weight", "k_norm.weight"))
    }


def gemma2(
    width: int = 32, layers: int = 3, heads: int = 2, head: int = 16, rows: int = 512
) -> Shapes:
    """Gemma 2: four norms a layer, one pair of keys and values; a vocabulary for `words.py`."""
    shapes: Shapes = {}
    for name, shape in qwen3(width, layers, heads, 1, head, rows=rows).items():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            continue
        shapes[name] = shape
        if name.endswith("post_attention_layernorm.weight"):
            for norm in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
                shapes[name.replace("post_attention_layernorm", norm)] = shape
    return shapes


def qwen3(
    width: int = 32,
    layers: int = 3,
    heads: int = 4,
    pairs: int = 2,
    head: int = 16,
    rows: int = 151936,
) -> Shapes:
    """Qwen3 as transformers names it; its vocabulary has the real number of rows."""
    shapes: Shapes = {"model.embed_tokens.weight": (rows, width)}
    for number in range(layers):
        block = f"model.layers.{number}"
        for part, count in (("q", heads), ("k", pairs), ("v", pairs)):
            shapes[f"{block}.self_attn.{part}_proj.weight"] = (count * head, width)
        shapes[f"{block}.self_attn.o_proj.weight"] = (width, heads * head)
        for part in ("q_norm", "k_norm"):
            shapes[f"{block}.self_attn.{part}.weight"] = (head,)
        for part in ("gate_proj", "up_proj"):
            shapes[f"{block}.mlp.{part}.weight"] = (3 * width, width)
        shapes[f"{block}.mlp.down_proj.weight"] = (width, 3 * width)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{block}.{norm}.weight"] = (width,)
    return {**shapes, "model.norm.weight": (width,)}
