"""GGUF files for tests, written by the `gguf` package from any safetensors file.

Two layouts are in use for image models: stable-diffusion.cpp's, with all networks under the names
of the original checkpoint, and city96's, with the denoiser alone and kernels flattened to rows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

UNET = "model.diffusion_model."


def write_gguf(
    source: Path,
    target: Path,
    kind: str,
    *,
    arch: str = "sd1",
    keep: Callable[[str], bool] = lambda name: True,
    strip: str = "",
    flattens: bool = False,
) -> dict[str, np.ndarray]:
    """Write a GGUF file; return what each of its tensors means, in 32 bits.

    Args:
        source: a safetensors file.
        target: the new file.
        kind: type of the large weights whose rows are whole blocks; others are F16 or F32.
        arch: the architecture that it names.
        keep: tells which tensors to take.
        strip: a prefix to leave out of names.
        flattens: quantise kernels too, as rows, with their shape beside them.
    """
    qtype = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[qtype][0]
    writer = gguf.GGUFWriter(str(target), arch)
    meant: dict[str, np.ndarray] = {}
    for key, tensor in load_file(source).items():
        if not keep(key):
            continue
        name, numbers = key.removeprefix(strip), tensor.astype(np.float32)
        is_large = numbers.ndim == 2 or (flattens and numbers.ndim == 4)
        rows = numbers
        if numbers.ndim == 4 and flattens and numbers.size % block == 0:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(numbers.shape))
            rows = numbers.reshape(-1, block)
        used = qtype if is_large and rows.shape[-1] % block == 0 else None
        if used is None:
            used = gguf.GGMLQuantizationType[("F16" if numbers.ndim > 1 else "F32")]
            rows = numbers
        packed = gguf.quantize(rows, used)
        writer.add_tensor(name, packed, raw_dtype=used)
        meant[key] = gguf.dequantize(packed, used).reshape(numbers.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant
