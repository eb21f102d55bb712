"""Diffusers' own pipelines of Flux.2 over the files of tests; see `more_peers.py`."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from scripts.tiny_models import words
from sdforge.core.paths import configs_root

TRANSFORMER = {
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 96,
    "axes_dims_rope": (8, 8, 8, 8),
}
VAE = {
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "latent_channels": 32,
}


def klein(files: Mapping[str, Path]) -> Any:
    """The pipeline over `klein`, `qwen3` and `vae`."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(files["vae"]),
        text_encoder=qwen3(files["qwen3"]),
        tokenizer=_qwen_tokenizer(),
        transformer=transformer(files["klein"], guided=False),
    )


def transformer(file: Path, *, guided: bool) -> Any:
    from diffusers import Flux2Transformer2DModel
    from diffusers.loaders.single_file_utils import (
        convert_flux2_transformer_checkpoint_to_diffusers as convert,
    )

    made = Flux2Transformer2DModel(**TRANSFORMER, guidance_embeds=guided).eval()
    made.load_state_dict(convert(load_file(file)))
    return made


def vae(file: Path) -> Any:
    from diffusers import AutoencoderKLFlux2
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    made = AutoencoderKLFlux2(**VAE).eval()
    inside = {"encoder.quant_conv": "quant_conv", "decoder.post_quant_conv": "post_quant_conv"}
    tensors = {}
    for key, tensor in load_file(file).items():
        for name, target in inside.items():
            key = key.replace(name, target)
        tensors[key] = tensor
    statistics = {key: tensor for key, tensor in tensors.items() if key.startswith("bn.")}
    levels = {"down_block_types": range(4), "up_block_types": range(4)}
    made.load_state_dict(convert_ldm_vae_checkpoint(tensors, levels) | statistics)
    return made


def qwen3(file: Path) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=28,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = Qwen3ForCausalLM(config).eval()
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model


def _qwen_tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
        path = configs_root() / "tokenizers" / "qwen3" / "tokenizer.json.gz"
        file.write(gzip.decompress(path.read_bytes()))
        file.flush()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=file.name, pad_token="<|endoftext|>", eos_token="<|im_end|>"
        )
    # The part of Qwen3's own template that a single message passes through.
    tokenizer.chat_template = (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}"
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
    )
    return tokenizer


def dev(files: Mapping[str, Path]) -> Any:
    """The pipeline over `dev`, `mistral` and `vae`."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline

    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(files["vae"]),
        text_encoder=mistral(files["mistral"]),
        tokenizer=_mistral_tokenizer(),
        transformer=transformer(files["dev"], guided=True),
    )


def mistral(file: Path) -> Any:
    """Mistral Small with the text part of a file and a picture part that nothing uses."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": 400,
            "hidden_size": 32,
            "intermediate_size": 96,
            "num_hidden_layers": 31,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000_000.0},
            "sliding_window": None,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 32,
            "patch_size": 16,
        },
    )
    model = Mistral3ForConditionalGeneration(config).eval()
    tensors = {k.removeprefix("model."): v for k, v in load_file(file).items()}
    tensors.pop("tekken_model")
    model.model.language_model.load_state_dict(tensors)
    return model


def _mistral_tokenizer() -> Any:
    """The tiny vocabulary by the rule of ranks, written out apart from ours."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()
    spelled = ["".join(letters[byte] for byte in token) for token in words.RANKED]
    # A token comes of two that rank before it; here of any two known ones.
    known = {letters[byte]: len(words.MARKS) + byte for byte in range(256)}
    merges = []
    for text in spelled:
        cuts = [(text[:n], text[n:]) for n in range(1, len(text))]
        merges += [(one, two) for one, two in cuts if one in known and two in known]
        known[text] = len(words.MARKS) + 256 + spelled.index(text)
    vocabulary = {mark: place for place, mark in enumerate(words.MARKS)} | known
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words.PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(words.MARKS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
    )
    # The part of Mistral Small's own template that two messages pass through.
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{% set text = message.content[0].text %}"
        "{% if message.role == 'system' %}{{ '[SYSTEM_PROMPT]' + text + '[/SYSTEM_PROMPT]' }}"
        "{% else %}{{ '[INST]' + text + '[/INST]' }}{% endif %}{% endfor %}"
    )
    return tokenizer


def spread(pipe: Any, latents: Any) -> Any:
    """What the pipeline ends with as the denoiser has it: in patches, of unit variance."""
    statistics = pipe.vae.bn
    middle = statistics.running_mean.view(1, -1, 1, 1)
    deviation = (statistics.running_var.view(1, -1, 1, 1) + 1e-4).sqrt()
    return (pipe._patchify_latents(latents) - middle) / deviation
