"""Tiny YOLO networks in the layout of the published files, made by hand to find what is red.

One channel carries redness from the picture to the answers; all other weights are zero. Wherever a
place of the finest map is red there is a box of `2 × REACH` places around it, 8 pixels each at the
size that the network sees, and the mask is what is red.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdforge.models.detectors.shapes import ROWS

REACH = 12
_WIDTHS = (4, 4, 8, 8, 8)
_BINS = 16
_GAIN = 10.0


def detector_weights(
    kind: str = "YOLOv8", *, masks: bool = False, classes: int = 1
) -> dict[str, Tensor]:
    """Return weights by the names of a state dict, "model.0.conv.weight"."""
    made = _Weights()
    c0, c1, c2, c3, c4 = _WIDTHS
    v11 = kind == "YOLO11"
    made.conv("0", 3, c0, 3)
    made.conv("1", c0, c1, 3)
    made.block("2", c1, c1, nested=False)
    made.conv("3", c1, c2, 3)
    made.block("4", c2, c2, nested=False)
    made.conv("5", c2, c3, 3)
    made.block("6", c3, c3, nested=v11)
    made.conv("7", c3, c4, 3)
    made.block("8", c4, c4, nested=v11)
    made.conv("9.cv1", c4, c4 // 2, 1)
    made.conv("9.cv2", c4 * 2, c4, 1)
    if v11:
        made.attending("10", c4)
    deep = 10 if v11 else 9
    made.block(str(deep + 3), c4 + c3, c3, nested=False)
    made.block(str(deep + 6), c3 + c2, c2, nested=False)
    made.conv(str(deep + 7), c2, c2, 3)
    made.block(str(deep + 9), c2 + c3, c3, nested=False)
    made.conv(str(deep + 10), c3, c3, 3)
    made.block(str(deep + 12), c3 + c4, c4, nested=v11)
    made.answer(str(len(ROWS[kind]) - 1), (c2, c3, c4), classes, masks=masks, paired=v11)
    made.carry_redness(str(deep + 6), c3, str(len(ROWS[kind]) - 1), paired=v11)
    return {f"model.{name}": value for name, value in made.weights.items()}


def write_detector(models: Path, name: str = "red_yolov8n.pt", **options: object) -> Path:
    """Write a detector's file as trainers do: the network as an object, in half precision."""
    path = models / "adetailer" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = detector_weights(**options)  # type: ignore[arg-type]
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in weights.items()}, path)
        return path
    with foreign_classes() as kinds:
        network = kinds["DetectionModel"]()
        for key, value in weights.items():
            _place(network, key.split("."), value.half(), kinds)
        torch.save({"epoch": -1, "model": network, "ema": None, "train_args": {"imgsz": 640}}, path)
    return path


@contextmanager
def foreign_classes() -> Iterator[dict[str, type[nn.Module]]]:
    """Give classes that this machine does not have once the block is left."""
    names = {"ultralytics.nn.tasks": "DetectionModel", "ultralytics.nn.modules.conv": "Conv"}
    kinds, homes = {}, {}
    for home, name in names.items():
        kinds[name] = type(name, (nn.Module,), {"__module__": home})
        homes[home] = ModuleType(home)
        setattr(homes[home], name, kinds[name])
    for parent in ("ultralytics", "ultralytics.nn", "ultralytics.nn.modules"):
        homes[parent] = ModuleType(parent)
    sys.modules.update(homes)
    try:
        yield kinds
    finally:
        for home in homes:
            del sys.modules[home]


def _place(
    network: nn.Module, parts: list[str], value: Tensor, kinds: dict[str, type[nn.Module]]
) -> None:
    *path, last = parts
    for part in path:
        if part not in network._modules:
            network.add_module(part, kinds["Conv"]())
        network = network.get_submodule(part)
    if last.startswith("running"):
        network.register_buffer(last, value)
    else:
        network.register_parameter(last, nn.Parameter(value, requires_grad=False))


class _Weights:
    """Weights of nought, layer by layer."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def conv(
        self, name: str, inputs: int, outputs: int, kernel: int, *, apart: bool = False
    ) -> None:
        shape = (outputs, 1 if apart else inputs, kernel, kernel)
        self.weights[f"{name}.conv.weight"] = torch.zeros(shape)
        for part in ("weight", "bias", "running_mean", "running_var"):
            is_one = part in ("weight", "running_var")
            self.weights[f"{name}.bn.{part}"] = torch.full((outputs,), float(is_one))

    def bottleneck(self, name: str, width: int) -> None:
        self.conv(f"{name}.cv1", width, width, 3)
        self.conv(f"{name}.cv2", width, width, 3)

    def block(self, name: str, inputs: int, outputs: int, *, nested: bool) -> None:
        half = outputs // 2
        self.conv(f"{name}.cv1", inputs, 2 * half, 1)
        self.conv(f"{name}.cv2", 3 * half, outputs, 1)
        if not nested:
            self.bottleneck(f"{name}.m.0", half)
            return
        for number in (1, 2):
            self.conv(f"{name}.m.0.cv{number}", half, half // 2, 1)
        self.conv(f"{name}.m.0.cv3", half, half, 1)
        for number in range(2):
            self.bottleneck(f"{name}.m.0.m.{number}", half // 2)

    def attending(self, name: str, width: int) -> None:
        half = width // 2
        self.conv(f"{name}.cv1", width, width, 1)
        self.conv(f"{name}.cv2", width, width, 1)
        self.conv(f"{name}.m.0.attn.qkv", half, 2 * half, 1)
        self.conv(f"{name}.m.0.attn.proj", half, half, 1)
        self.conv(f"{name}.m.0.attn.pe", half, half, 3, apart=True)
        self.conv(f"{name}.m.0.ffn.0", half, 2 * half, 1)
        self.conv(f"{name}.m.0.ffn.1", 2 * half, half, 1)

    def answer(
        self, name: str, widths: tuple[int, ...], classes: int, *, masks: bool, paired: bool
    ) -> None:
        parts = {"cv2": 4 * _BINS, "cv3": classes} | ({"cv4": 2} if masks else {})
        for part, outputs in parts.items():
            for at, width in enumerate(widths):
                lead = f"{name}.{part}.{at}"
                for number in (0, 1):
                    if paired and part == "cv3":
                        self.conv(f"{lead}.{number}.0", width, width, 3, apart=True)
                        self.conv(f"{lead}.{number}.1", width, width, 1)
                    else:
                        self.conv(f"{lead}.{number}", width, width, 3)
                self.weights[f"{lead}.2.weight"] = torch.zeros(outputs, width, 1, 1)
                self.weights[f"{lead}.2.bias"] = torch.zeros(outputs)
        self.weights[f"{name}.dfl.conv.weight"] = torch.arange(_BINS).float().view(1, _BINS, 1, 1)
        if masks:
            self.conv(f"{name}.proto.cv1", widths[0], 4, 3)
            self.weights[f"{name}.proto.upsample.weight"] = torch.zeros(4, 4, 2, 2)
            self.weights[f"{name}.proto.upsample.bias"] = torch.zeros(4)
            self.conv(f"{name}.proto.cv2", 4, 4, 3)
            self.conv(f"{name}.proto.cv3", 4, 2, 1)

    def carry_redness(self, finest: str, before: int, answer: str, *, paired: bool) -> None:
        """Let redness reach the finest map's answers and prototypes, in the first channel."""
        weights = self.weights
        weights["0.conv.weight"][0, :, 1, 1] = torch.tensor([1.0, -0.5, -0.5]) * _GAIN
        for name in ("1", "3"):
            weights[f"{name}.conv.weight"][0, 0, 1, 1] = 1.0
        for name in ("2", "4", finest):
            # In the last one what the deeper layers say comes first.
            weights[f"{name}.cv1.conv.weight"][0, before if name == finest else 0] = 1.0
            weights[f"{name}.cv2.conv.weight"][0, 0] = 1.0
        for number in (0, 1):
            lead = f"{answer}.cv3.0.{number}"
            for name in (f"{lead}.0", f"{lead}.1") if paired else (lead,):
                kernel = weights[f"{name}.conv.weight"]
                kernel[0, 0, kernel.shape[2] // 2, kernel.shape[2] // 2] = 1.0
        for at in range(3):
            weights[f"{answer}.cv3.{at}.2.bias"][:] = -20.0
            weights[f"{answer}.cv2.{at}.2.bias"].view(4, _BINS)[:, REACH] = 40.0
        weights[f"{answer}.cv3.0.2.weight"][0, 0] = 4.0
        if f"{answer}.proto.cv1.conv.weight" in weights:
            weights[f"{answer}.cv4.0.2.bias"][0] = 1.0
            weights[f"{answer}.proto.cv1.conv.weight"][0, 0, 1, 1] = 1.0
            weights[f"{answer}.proto.upsample.weight"][0, 0] = 1.0
            weights[f"{answer}.proto.cv2.conv.weight"][0, 0, 1, 1] = 1.0
            weights[f"{answer}.proto.cv3.conv.weight"][0, 0] = 1.0
            weights[f"{answer}.proto.cv3.bn.bias"][0] = -5.0
