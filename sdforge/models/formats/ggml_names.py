"""Names of text encoders in GGUF files, as llama.cpp gives them → those of transformers.

Tensors correspond one to one: T5's encoder, and decoders of the kind of Qwen and Mistral. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_T5_BLOCK = {
    "attn_q": "0.SelfAttention.q",
    "attn_k": "0.SelfAttention.k",
    "attn_v": "0.SelfAttention.v",
    "attn_o": "0.SelfAttention.o",
    "attn_rel_b": "0.SelfAttention.relative_attention_bias",
    "attn_norm": "0.layer_norm",
    "ffn_gate": "1.DenseReluDense.wi_0",
    "ffn_up": "1.DenseReluDense.wi_1",
    "ffn_down": "1.DenseReluDense.wo",
    "ffn_norm": "1.layer_norm",
}
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
_ENDS = {
    "enc.output_norm.weight": "encoder.final_layer_norm.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_TABLE = "token_embd.weight"
_BLOCK = re.compile(r"(enc\.)?blk\.(\d+)\.(\w+)\.(weight|bias)")


def is_text_encoder(names: Iterable[str]) -> bool:
    """Tell whether these are names that llama.cpp gives to a text encoder."""
    found = set(names)
    return _TABLE in found and any(_BLOCK.fullmatch(name) for name in found)


def original_text_name(name: str, *, is_t5: bool) -> str:
    """Return a tensor's name in transformers' layout; one that is not known stays."""
    if name == _TABLE:
        return "shared.weight" if is_t5 else "model.embed_tokens.weight"
    match = _BLOCK.fullmatch(name)
    if match is None:
        return _ENDS.get(name, name)
    encoder, number, part, end = match.groups()
    if encoder and part in _T5_BLOCK:
        return f"encoder.block.{number}.layer.{_T5_BLOCK[part]}.{end}"
    return f"model.layers.{number}.{_LAYER[part]}.{end}" if part in _LAYER else name
