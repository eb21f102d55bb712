"""Tensors of LoRAs in all their kinds and spellings, and of embeddings.

A kind says what lies beside one layer; a spelling says how the layer is named. All kinds are for a
matrix [out, in]; convolutions appear in plain LoRA (LoCon) only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

RANK = 4
Tensors = dict[str, torch.Tensor]
KINDS = ("lora", "dora", "loha", "lokr", "ia3", "glora", "full", "norm")

SD_LAYERS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (32, 32),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (32, 32),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj": (512, 64),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (32, 32),
    "lora_te_text_model_encoder_layers_1_mlp_fc1": (128, 32),
}
"""kohya's names for SD 1.x: diffusers' places with underscores."""

SDXL_LAYERS = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (64, 64),
    "lora_unet_middle_block_1_transformer_blocks_2_ff_net_2": (128, 512),
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (32, 32),
    "lora_te2_text_model_encoder_layers_2_mlp_fc1": (192, 48),
}
"""kohya's names for SDXL: the original places with underscores, two text encoders."""

FLUX_LAYERS = {
    "lora_unet_double_blocks_0_img_attn_qkv": (192, 64),
    "lora_unet_double_blocks_0_txt_mlp_0": (256, 64),
    "lora_unet_single_blocks_0_linear1": (448, 64),
}
"""kohya's names for Flux: BFL's places with underscores."""

PEFT_LAYERS = {
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (32, 32),
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (32, 32),
}
FLUX_PEFT_LAYERS = {
    "transformer.transformer_blocks.0.attn.to_q": (64, 64),
    "transformer.single_transformer_blocks.0.proj_mlp": (256, 64),
}
Z_IMAGE_LAYERS = {
    "diffusion_model.layers.0.attention.to_q": (96, 96),
    "diffusion_model.layers.1.feed_forward.w1": (256, 96),
}


def kohya(layers: Mapping[str, tuple[int, int]], kind: str = "lora", seed: int = 0) -> Tensors:
    """Adapters of one kind (see KINDS) for these layers, in kohya's and LyCORIS' layout."""
    source = torch.Generator().manual_seed(seed)
    made: Tensors = {}
    for name, (rows, columns) in layers.items():
        for part, value in _parts(kind, rows, columns, source).items():
            made[f"{name}.{part}"] = value
    return made


def _parts(kind: str, rows: int, columns: int, source: torch.Generator) -> Tensors:
    def noise(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=source)

    alpha = {"alpha": torch.tensor(float(RANK) / 2)}
    plain = {"lora_down.weight": noise(RANK, columns), "lora_up.weight": noise(rows, RANK)}
    if kind == "lora":
        return {**plain, **alpha}
    if kind == "dora":
        return {**plain, **alpha, "dora_scale": 1 + noise(rows, 1)}
    if kind == "loha":
        pairs = {f"hada_w{i}_a": noise(rows, RANK) for i in (1, 2)}
        return {**pairs, **{f"hada_w{i}_b": noise(RANK, columns) for i in (1, 2)}, **alpha}
    if kind == "lokr":
        small = {"lokr_w1": noise(4, 4)}
        large = {"lokr_w2_a": noise(rows // 4, RANK), "lokr_w2_b": noise(RANK, columns // 4)}
        return {**small, **large, **alpha}
    if kind == "ia3":
        return {"weight": noise(rows), "on_input": torch.tensor(False)}
    if kind == "glora":
        made = {"a1.weight": noise(RANK, columns), "a2.weight": noise(columns, RANK)}
        made |= {"b1.weight": noise(RANK, columns), "b2.weight": noise(rows, RANK)}
        return {**made, **alpha}
    if kind == "full":
        return {"diff": noise(rows, columns), "diff_b": noise(rows)}
    if kind == "norm":
        return {"w_norm": noise(rows), "b_norm": noise(rows)}
    raise ValueError(f"no LoRA of kind {kind!r}; there are {', '.join(KINDS)}")


def locon(seed: int = 0, middle: bool = False) -> Tensors:
    """LoRA of a 3×3 and a 1×1 convolution; with `middle` in three factors (CP)."""
    source = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=source)

    wide = "lora_unet_down_blocks_0_resnets_0_conv1"
    point = "lora_unet_down_blocks_1_attentions_0_proj_in"
    side = 1 if middle else 3
    made = {
        f"{wide}.lora_down.weight": noise(RANK, 32, side, side),
        f"{wide}.lora_up.weight": noise(32, RANK, 1, 1),
        f"{wide}.alpha": torch.tensor(2.0),
        f"{point}.lora_down.weight": noise(RANK, 64, 1, 1),
        f"{point}.lora_up.weight": noise(64, RANK, 1, 1),
        f"{point}.alpha": torch.tensor(2.0),
    }
    if middle:
        made[f"{wide}.lora_mid.weight"] = noise(RANK, RANK, 3, 3)
    return made


def peft(layers: Mapping[str, tuple[int, int]], seed: int = 0) -> Tensors:
    """LoRA in diffusers' spelling: `lora_A`, `lora_B`, no alpha."""
    source = torch.Generator().manual_seed(seed)
    made: Tensors = {}
    for name, (rows, columns) in layers.items():
        made[f"{name}.lora_A.weight"] = 0.1 * torch.randn(RANK, columns, generator=source)
        made[f"{name}.lora_B.weight"] = 0.1 * torch.randn(rows, RANK, generator=source)
    return made


def embedding(widths: Mapping[str, int], vectors: int = 2, seed: int = 0) -> Tensors:
    """A textual inversion: key to width, `emb_params` for SD 1.x, `clip_l` and `clip_g` for XL."""
    source = torch.Generator().manual_seed(seed)
    return {key: 0.3 * torch.randn(vectors, w, generator=source) for key, w in widths.items()}


def old_embedding(name: str, width: int = 32, vectors: int = 2, seed: int = 0) -> dict[str, object]:
    """What a .pt embedding of A1111's trainer holds."""
    vector = embedding({"*": width}, vectors, seed)["*"]
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vector},
        "name": name,
        "step": 100,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }
