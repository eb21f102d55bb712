"""Tiny upscaler files in every layout that users have, filled with random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sdforge.models.upscalers.networks import make_network
from sdforge.models.upscalers.shapes import COMPACT, ESRGAN, UpscalerShape


def esrgan_shape(
    *, doublings: int = 2, squeeze: int = 1, shortcuts: bool = False, blocks: int = 2
) -> UpscalerShape:
    return UpscalerShape(
        kind=ESRGAN, scale=2**doublings // squeeze, features=8, blocks=blocks, growth=4,
        squeeze=squeeze, doublings=doublings, has_shortcuts=shortcuts, keys={},
    )  # fmt: skip


def compact_shape(scale: int = 2, blocks: int = 2) -> UpscalerShape:
    return UpscalerShape(kind=COMPACT, scale=scale, features=8, blocks=blocks, keys={})


def random_weights(shape: UpscalerShape, seed: int = 0) -> dict[str, Tensor]:
    """Return weights that keep pictures within range, by our names."""
    generator = torch.Generator().manual_seed(seed)
    network = make_network(shape)
    weights = {}
    for name, value in network.state_dict().items():
        fan_in = max(value[0].numel(), 1) if value.ndim > 1 else 4
        spread = 1 / fan_in**0.5
        weights[name] = torch.randn(value.shape, generator=generator) * spread
    return weights


def early_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ESRGAN's second spelling."""
    pairs = (
        ("conv_body", "trunk_conv"), ("conv_up", "upconv"), ("conv_hr", "HRconv"),
        ("body.", "RRDB_trunk."), (".rdb", ".RDB"), ("shortcut", "conv1x1"),
    )  # fmt: skip
    return _renamed(weights, lambda name: _replaced(name, pairs))


def oldest_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ESRGAN's first spelling: a row of layers, those without tensors counted."""
    doublings = sum(name.startswith("conv_up") for name in weights) // 2
    blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("body."))
    places = {"conv_first": "0", "conv_body": f"1.sub.{blocks}"}
    places |= {f"conv_up{number}": str(3 * number) for number in range(1, doublings + 1)}
    end = 3 * doublings + 2
    places |= {"conv_hr": str(end), "conv_last": str(end + 2)}

    def rename(name: str) -> str:
        layer, _, rest = name.partition(".")
        if layer != "body":
            return f"model.{places[layer]}.{rest}"
        number, dense, convolution, kind = rest.split(".")
        part = "conv1x1" if convolution == "shortcut" else f"{convolution}.0"
        return f"model.1.sub.{number}.{dense.upper()}.{part}.{kind}"

    return _renamed(weights, rename)


def write_upscaler(path: Path, weights: Mapping[str, Tensor]) -> Path:
    """Write a safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path


def _renamed(weights: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): value for name, value in weights.items()}


def _replaced(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name
