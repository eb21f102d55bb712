"""Diffusers' own pipelines of the families that came later, over the files of tests.

As in `peers.py`: configurations are written out by hand, weights go through diffusers' converters
where it has one that knows the width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.models.families import peers


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


SD3 = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "joint_attention_dim": 96,
    "caption_projection_dim": 64,
    "pooled_projection_dim": 80,
    "pos_embed_max_size": 24,
    "sample_size": 8,
}
SD3_VAE = peers.KL16 | {"scaling_factor": 1.5305, "shift_factor": 0.0609}


def sd3(files: Mapping[str, Path], folder: Path, *, has_t5: bool = True, **config: Any) -> Any:
    """The pipeline over `denoiser`, `clip_l`, `clip_g`, `t5xxl` and `vae`."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from diffusers.loaders.single_file_utils import (
        convert_sd3_transformer_checkpoint_to_diffusers as convert,
    )

    transformer = SD3Transformer2DModel(**(SD3 | config)).eval()
    transformer.load_state_dict(convert(load_file(files["denoiser"])))
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=peers.network(AutoencoderKL, SD3_VAE, files["vae"], folder / "vae"),
        text_encoder=_clip_l(files["clip_l"]),
        tokenizer=peers.clip_tokenizer(),
        text_encoder_2=peers.clip(
            files["clip_g"], "", projects=True, width=48, layers=3, act="gelu", projection=48
        ),
        tokenizer_2=peers.clip_tokenizer("!"),
        text_encoder_3=peers.t5(files["t5xxl"], width=96) if has_t5 else None,
        tokenizer_3=peers.t5_tokenizer(),
        transformer=transformer,
    )


def _clip_l(file: Path) -> Any:
    """CLIP-L with its projection, which diffusers takes for identity where a file has none."""
    import torch
    from transformers import CLIPTextModelWithProjection

    model = CLIPTextModelWithProjection(peers.clip_config()).eval()
    model.load_state_dict({"text_projection.weight": torch.eye(32)} | load_file(file))
    return model


CHROMA = {
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "axes_dims_rope": (4, 14, 14),
    "approximator_hidden_dim": 48,
    "approximator_layers": 2,
}


def chroma(files: Mapping[str, Path], folder: Path) -> Any:
    """The pipeline over `chroma`, `t5xxl` and `ae`."""
    import inspect

    from diffusers import (
        AutoencoderKL,
        ChromaPipeline,
        ChromaTransformer2DModel,
        FlowMatchEulerDiscreteScheduler,
    )
    from diffusers.loaders import single_file_utils

    # Its converter knows the real width only.
    source = inspect.getsource(single_file_utils.convert_chroma_transformer_checkpoint_to_diffusers)
    names: dict[str, Any] = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", "inner_dim = 64"), names)
    convert = names["convert_chroma_transformer_checkpoint_to_diffusers"]
    transformer = ChromaTransformer2DModel(**CHROMA).eval()
    transformer.load_state_dict(convert(load_file(files["chroma"])))
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=peers.network(AutoencoderKL, peers.KL16, files["ae"], folder / "vae"),
        text_encoder=peers.t5(files["t5xxl"]),
        tokenizer=peers.t5_tokenizer(),
        transformer=transformer,
    )


def qwen_tokenizer() -> Any:
    import gzip
    import tempfile

    from transformers import PreTrainedTokenizerFast

    from sdforge.core.paths import configs_root

    with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
        path = configs_root() / "tokenizers" / "qwen3" / "tokenizer.json.gz"
        file.write(gzip.decompress(path.read_bytes()))
        file.flush()
        return PreTrainedTokenizerFast(
            tokenizer_file=file.name, pad_token="<|endoftext|>", eos_token="<|im_end|>"
        )


QWEN25_TEXT = {
    "vocab_size": 152064,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1_000_000.0,
        "mrope_section": [2, 3, 3],
    },
}


def qwen25(file: Path) -> Any:
    """Qwen2.5-VL with the text part of a file and a picture part that nothing uses."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config=QWEN25_TEXT,
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    words = {
        k.removeprefix("model."): v for k, v in load_file(file).items() if k.startswith("model.")
    }
    model.model.language_model.load_state_dict(words)
    return model


def qwen_image(files: Mapping[str, Path], folder: Path, reader: Any = None, **config: Any) -> Any:
    """The pipeline over `qwen`, `reader` and `vae`."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    transformer = QwenImageTransformer2DModel(
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 14, 14),
        **config,
    ).eval()
    transformer.load_state_dict(load_file(files["qwen"]))
    vae = AutoencoderKLQwenImage(base_dim=8).eval()
    vae.load_state_dict(convert_wan_vae_to_diffusers(load_file(files["vae"])))
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=reader or qwen25(files["reader"]),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def flux_tool(kind: str, files: Mapping[str, Path], folder: Path) -> Any:
    """Flux's pipeline with what Fill or Kontext need, over `flux` and the other parts."""
    import diffusers

    plain = peers.flux(files, folder, guided=True, in_channels=384 if kind == "Fill" else 64)
    return getattr(diffusers, f"Flux{kind}Pipeline")(
        **{name: part for name, part in plain.components.items() if part is not None}
    )
