"""The same files through diffusers' own pipelines: what our latents are held against.

Configurations are written out by hand, not derived from ours; weights go through diffusers' own
converters of single files.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sdforge.core.paths import configs_root

VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [32, 32, 64, 64],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 8,
    "latent_channels": 4,
}
SD1_UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [32, 64, 64, 64],
    "layers_per_block": 2,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
    "sample_size": 8,
}
SD2_UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [32, 64, 64, 64],
    "layers_per_block": 2,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "cross_attention_dim": 48,
    "attention_head_dim": [1, 1, 1, 1],
    "use_linear_projection": True,
    "norm_num_groups": 8,
    "sample_size": 8,
}
SDXL_UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [32, 64, 128],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 80,
    "attention_head_dim": [1, 1, 2],
    "transformer_layers_per_block": [1, 2, 3],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 48 + 6 * 256,
    "norm_num_groups": 8,
    "sample_size": 8,
}
REFINER_UNET = SDXL_UNET | {
    "block_out_channels": [32, 64, 128, 128],
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "cross_attention_dim": 48,
    "attention_head_dim": [1, 1, 2, 2],
    "transformer_layers_per_block": [1, 2, 2, 2],
    "projection_class_embeddings_input_dim": 48 + 5 * 256,
}
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    # First latents are noise times sigma, as A1111's are unless told otherwise.
    "timestep_spacing": "linspace",
    "steps_offset": 1,
}


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    path = configs_root() / "tokenizers" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in islice(file, 1, 49152 - 258 + 1)]
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    entries = [*letters, *(f"{x}</w>" for x in letters), *("".join(pair) for pair in merges)]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    return {entry: number for number, entry in enumerate(entries)}, merges  # type: ignore[return-value]


def clip_tokenizer(pad: str = "<|endoftext|>") -> Any:
    from transformers import CLIPTokenizer

    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=pad)


def network(kind: Any, config: Mapping[str, Any], file: Path, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return kind.from_single_file(file, config=str(folder), local_files_only=True).eval()


def clip_config(
    *, width: int = 32, layers: int = 2, act: str = "quick_gelu", projection: int = 32
) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=1,
        hidden_act=act,
        projection_dim=projection,
        bos_token_id=49406,
        eos_token_id=49407,
    )


def clip(file: Path, prefix: str, *, projects: bool = False, **config: Any) -> Any:
    """A text encoder that the file has in transformers' names."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    model = (CLIPTextModelWithProjection if projects else CLIPTextModel)(clip_config(**config))
    found = {k.removeprefix(prefix): v.float() for k, v in load_file(file).items()}
    if not projects:
        found = {k.removeprefix("text_model."): v for k, v in found.items()}
    model.load_state_dict({k: v for k, v in found.items() if k in model.state_dict()})
    return model.eval()


def open_clip(file: Path, prefix: str, *, projects: bool) -> Any:
    """A text encoder that the file has in OpenCLIP's names, by diffusers' converter."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    config = clip_config(width=48, layers=3, act="gelu", projection=48)
    model = (CLIPTextModelWithProjection if projects else CLIPTextModel)(config)
    converted = convert_open_clip_checkpoint(model, load_file(file), prefix=prefix)
    wanted = model.state_dict()
    found = {k: v for k, v in converted.items() if k in wanted}
    if not found or len(found) < len(wanted) - 1:
        found = {k.removeprefix("text_model."): v for k, v in converted.items()}
    model.load_state_dict({k: v for k, v in found.items() if k in wanted})
    return model.eval()


def sd1(file: Path, folder: Path) -> Any:
    text = clip(file, "cond_stage_model.transformer.")
    return _stable_diffusion(file, folder, SD1_UNET, text, clip_tokenizer(), "epsilon")


def sd2(file: Path, folder: Path, prediction: str) -> Any:
    text = open_clip(file, "cond_stage_model.model.", projects=False)
    # Published with one layer cut off, which is what A1111's last-but-one means.
    text.encoder.layers = text.encoder.layers[:-1]
    return _stable_diffusion(file, folder, SD2_UNET, text, clip_tokenizer("!"), prediction)


def _stable_diffusion(
    file: Path, folder: Path, unet: Mapping[str, Any], text: Any, tokenizer: Any, prediction: str
) -> Any:
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    return StableDiffusionPipeline(
        vae=network(AutoencoderKL, VAE, file, folder / "vae"),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=network(UNet2DConditionModel, unet, file, folder / "unet"),
        scheduler=EulerDiscreteScheduler(**SCHEDULE, prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(file: Path, folder: Path) -> Any:
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    return StableDiffusionXLPipeline(
        vae=network(AutoencoderKL, VAE | {"scaling_factor": 0.13025}, file, folder / "vae"),
        text_encoder=clip(file, "conditioner.embedders.0.transformer."),
        text_encoder_2=open_clip(file, "conditioner.embedders.1.model.", projects=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer("!"),
        unet=network(UNet2DConditionModel, SDXL_UNET, file, folder / "unet"),
        scheduler=EulerDiscreteScheduler(**SCHEDULE),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def refiner(file: Path, folder: Path) -> Any:
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLImg2ImgPipeline,
        UNet2DConditionModel,
    )

    return StableDiffusionXLImg2ImgPipeline(
        vae=network(AutoencoderKL, VAE | {"scaling_factor": 0.13025}, file, folder / "vae"),
        text_encoder=None,
        text_encoder_2=open_clip(file, "conditioner.embedders.0.model.", projects=True),
        tokenizer=None,
        tokenizer_2=clip_tokenizer("!"),
        unet=network(UNet2DConditionModel, REFINER_UNET, file, folder / "unet"),
        scheduler=EulerDiscreteScheduler(**SCHEDULE),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


FLUX = {
    "_class_name": "FluxTransformer2DModel",
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 32,
    "axes_dims_rope": [4, 14, 14],
}
KL16 = VAE | {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def flux_tensors(file: Path) -> dict[str, torch.Tensor]:
    """A file in the authors' names, by diffusers' converter, which knows the real width only."""
    import inspect

    from diffusers.loaders import single_file_utils

    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    names: dict[str, Any] = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", "inner_dim = 64"), names)
    convert = names["convert_flux_transformer_checkpoint_to_diffusers"]
    made: dict[str, torch.Tensor] = convert(load_file(file))
    return made


def t5(file: Path, width: int = 64) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=32128,
        d_model=width,
        d_kv=width // 2,
        d_ff=2 * width,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    model = T5EncoderModel(config)
    model.load_state_dict(load_file(file), strict=False)
    return model.eval()


def t5_tokenizer() -> Any:
    import tempfile

    from transformers import T5TokenizerFast

    with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
        path = configs_root() / "tokenizers" / "t5" / "tokenizer.json.gz"
        file.write(gzip.decompress(path.read_bytes()))
        file.flush()
        return T5TokenizerFast(tokenizer_file=file.name, extra_ids=0)


def flux(files: Mapping[str, Path], folder: Path, *, guided: bool, in_channels: int = 64) -> Any:
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )

    config = {key: value for key, value in FLUX.items() if not key.startswith("_")}
    config |= {"in_channels": in_channels, "out_channels": 64, "guidance_embeds": guided}
    transformer = FluxTransformer2DModel(**config).eval()
    transformer.load_state_dict(flux_tensors(files["flux"]))
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=network(AutoencoderKL, KL16, files["ae"], folder / "vae"),
        text_encoder=clip(files["clip_l"], ""),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(files["t5xxl"]),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )


def z_image(files: Mapping[str, Path], folder: Path) -> Any:
    import tempfile

    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )
    from diffusers.loaders.single_file_utils import (
        convert_z_image_transformer_checkpoint_to_diffusers as convert,
    )
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    transformer = ZImageTransformer2DModel(
        dim=96,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=3,
        n_kv_heads=3,
        cap_feat_dim=32,
        axes_dims=[8, 12, 12],
    ).eval()
    transformer.load_state_dict(convert(load_file(files["z_image"])))
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    )
    reader = Qwen3Model(config).eval()
    words = {k.removeprefix("model."): v for k, v in load_file(files["qwen3"]).items()}
    reader.load_state_dict(words)
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
        "{% endfor %}{{ '<|im_start|>assistant\\n' }}"
    )
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=network(AutoencoderKL, KL16, files["ae"], folder / "vae"),
        text_encoder=reader,
        tokenizer=tokenizer,
        transformer=transformer,
    )


def drawn(pipe: Any, sigmas: Sequence[float], **values: Any) -> torch.Tensor:
    """The latents that a pipeline ends with."""
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        latents: torch.Tensor = pipe(
            num_inference_steps=len(sigmas) - 1, sigmas=list(sigmas), output_type="latent", **values
        ).images
    return latents


def difference(ours: torch.Tensor, theirs: torch.Tensor, first_sigma: float) -> float:
    """The largest difference, as a share of the largest latents on the way: first or last ones."""
    largest = max(theirs.abs().max().item(), 3 * first_sigma)
    return (ours - theirs).abs().max().item() / largest
