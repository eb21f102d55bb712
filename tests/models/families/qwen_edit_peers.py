"""Diffusers' own pipelines of Qwen-Image-Edit over the files of tests.

transformers counts rows and columns of a picture's tokens, as the model was trained, only where it
is told which tokens these are; diffusers does not tell it, so that is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.models.families import more_peers

IMAGE_PAD = 151655


def reader(file: Path) -> Any:
    """Qwen2.5-VL with both parts of a file."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config=more_peers.QWEN25_TEXT,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE_PAD,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    tensors = load_file(file)
    eyes = {k.removeprefix("visual."): v for k, v in tensors.items() if k.startswith("visual.")}
    words = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    model.model.visual.load_state_dict(eyes)
    model.model.language_model.load_state_dict(words)
    plain = model.forward

    def forward(**inputs: Any) -> Any:
        return plain(mm_token_type_ids=(inputs["input_ids"] == IMAGE_PAD).int(), **inputs)

    model.forward = forward
    return model


def processor() -> Any:
    """What makes patches of pictures and tokens of messages."""
    from transformers import Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = more_peers.qwen_tokenizer()
    tokenizer.image_token = "<|image_pad|>"
    found = Qwen2VLProcessor.__new__(Qwen2VLProcessor)
    found.image_processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=12845056)
    found.tokenizer = tokenizer
    found.image_token = "<|image_pad|>"
    return found


def qwen_edit(
    files: Mapping[str, Path], folder: Path, read: Any, kind: str = "", **config: Any
) -> Any:
    """The pipeline over `edit`, `vae` and a `reader`; `kind` is "" or "Plus"."""
    import diffusers

    named = {"qwen": files["edit"], "vae": files["vae"]}
    plain = more_peers.qwen_image(named, folder, read, **config)
    pipeline = getattr(diffusers, f"QwenImageEdit{kind}Pipeline")
    return pipeline(**plain.components, processor=processor())
