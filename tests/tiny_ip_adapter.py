"""Tiny IP-Adapters and a CLIP vision encoder for tests: random weights in the real files' names."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.tiny_control import random_weights

Tensors = dict[str, torch.Tensor]
SIDE, PATCH, VISION_WIDTH, VISION_PROJECTION = 32, 8, 32, 24
WORDS, DEPTH, HIDDEN, HEADS = 4, 4, 32, 2


def make_encoder(seed: int = 0) -> CLIPVisionModelWithProjection:
    """Return transformers' own network, whose names files have."""
    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=48,
        projection_dim=VISION_PROJECTION,
        num_hidden_layers=3,
        num_attention_heads=16,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    encoder = CLIPVisionModelWithProjection(config).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    encoder.load_state_dict(random_weights(shapes, seed))
    return encoder


def ip_adapter_tensors(
    unet: Any, *, plus: bool, full: bool = False, seed: int = 0
) -> dict[str, Tensors]:
    """Return an adapter's tensors in the authors' names, in their two groups.

    Args:
        unet: a network of diffusers', whose attentions to the text it is for.
        plus: as IP-Adapter Plus has them.
        full: as IP-Adapter Full Face has them.
        seed: of the weights.
    """
    names = [name for name, _ in unet.named_modules() if name.endswith(".attn2")]
    attentions = [unet.get_submodule(name) for name in names]
    context = attentions[0].to_k.in_features
    matrices = {
        f"{2 * place + 1}.{part}.weight": (attention.to_q.out_features, context)
        for place, attention in enumerate(attentions)
        for part in ("to_k_ip", "to_v_ip")
    }
    projection = _plus_shapes(context) if plus else _plain_shapes(context)
    if full:
        projection = _full_shapes(context)
    return {
        "image_proj": random_weights(projection, seed),
        "ip_adapter": random_weights(matrices, seed + 1),
    }


def _plain_shapes(context: int) -> dict[str, tuple[int, ...]]:
    norm = {f"norm.{end}": (context,) for end in ("weight", "bias")}
    rows = WORDS * context
    return {"proj.weight": (rows, VISION_PROJECTION), "proj.bias": (rows,), **norm}


def _full_shapes(context: int) -> dict[str, tuple[int, ...]]:
    rows = {"0": (VISION_WIDTH, VISION_WIDTH), "2": (context, VISION_WIDTH), "3": (context,)}
    return {
        **{f"proj.{place}.weight": shape for place, shape in rows.items()},
        **{f"proj.{place}.bias": shape[:1] for place, shape in rows.items()},
    }


def _plus_shapes(context: int) -> dict[str, tuple[int, ...]]:
    inner = HEADS * 64
    shapes: dict[str, tuple[int, ...]] = {"latents": (1, WORDS, HIDDEN)}
    for name, rows, columns in (("in", HIDDEN, VISION_WIDTH), ("out", context, HIDDEN)):
        shapes |= {f"proj_{name}.weight": (rows, columns), f"proj_{name}.bias": (rows,)}
    shapes |= {f"norm_out.{end}": (context,) for end in ("weight", "bias")}
    for layer in range(DEPTH):
        lead = f"layers.{layer}"
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"{lead}.{norm}.{end}": (HIDDEN,) for end in ("weight", "bias")}
        shapes[f"{lead}.0.to_q.weight"] = (inner, HIDDEN)
        shapes[f"{lead}.0.to_kv.weight"] = (2 * inner, HIDDEN)
        shapes[f"{lead}.0.to_out.weight"] = (HIDDEN, inner)
        shapes[f"{lead}.1.1.weight"] = (4 * HIDDEN, HIDDEN)
        shapes[f"{lead}.1.3.weight"] = (HIDDEN, 4 * HIDDEN)
    return shapes


def flat(groups: dict[str, Tensors]) -> Tensors:
    """Return the groups as one file has them."""
    return {f"{group}.{name}": one for group, row in groups.items() for name, one in row.items()}
