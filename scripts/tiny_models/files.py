"""Writes tensors of given shapes, filled at random, in every file format models come in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from .unet import Shapes

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_QUANT_SIDE = 32
"""Numbers in one block of the plain GGUF quantisations; rows must be a multiple."""


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Numbers at the scale that keeps signals near variance 1; the same seed, the same numbers."""
    source = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=source)
        if len(shape) < 2:
            is_gain = name.endswith(("weight", "scale", "running_var"))
            values = 1 + 0.1 * values if is_gain else 0.02 * values
        elif name.endswith(("embedding.weight", "embed", "shared.weight", "embed_tokens.weight")):
            values = 0.5 * values
        else:
            values = values / math.sqrt(math.prod(shape[1:]))
        made[name] = values
    return made


def with_prefix(prefix: str, shapes: Shapes) -> Shapes:
    """The same tensors as part of a whole file."""
    return {prefix + name: shape for name, shape in shapes.items()}


def write_safetensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    dtype: str = "F16",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write one .safetensors file; whole numbers stay what they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {
        name: value.to(DTYPES[dtype]) if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    save_file({k: v.contiguous() for k, v in kept.items()}, path, metadata=dict(metadata or {}))
    return path


def write_scaled_fp8(path: Path, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> Path:
    """Write matrices as fp8 with a scale for each, as "scaled fp8" files do.

    Beside `X.weight` lies `X.scale_weight`, one fp32 number, and an empty `scaled_fp8` tensor marks
    the file. All else is half precision.
    """
    kept: dict[str, torch.Tensor] = {f"{prefix}scaled_fp8": torch.empty(2).to(torch.float8_e4m3fn)}
    for name, value in tensors.items():
        if value.ndim != 2 or not name.endswith(".weight"):
            kept[name] = value.half()
            continue
        scale = value.abs().max() / torch.finfo(torch.float8_e4m3fn).max
        kept[name] = (value / scale).to(torch.float8_e4m3fn)
        kept[name.removesuffix("weight") + "scale_weight"] = scale.reshape(())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, path)
    return path


def write_gguf(
    path: Path, tensors: Mapping[str, torch.Tensor], architecture: str, quantisation: str
) -> Path:
    """Write one .gguf file: matrices quantised ("Q4_0", "Q8_0", …), the rest in full."""
    import gguf

    kind = gguf.GGMLQuantizationType[quantisation]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, value in tensors.items():
        numbers = value.to(torch.float32).numpy()
        if numbers.ndim < 2 or numbers.shape[-1] % _QUANT_SIDE:
            writer.add_tensor(name, numbers)
            continue
        packed = gguf.quants.quantize(np.ascontiguousarray(numbers), kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_ckpt(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a pickled .ckpt as trainers did: weights under `state_dict`, counters beside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half() for name, value in tensors.items()}
    torch.save({"state_dict": weights, "epoch": 0, "global_step": 1}, path)
    return path


def write_json(path: Path, content: object) -> Path:
    """Write one configuration file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path
