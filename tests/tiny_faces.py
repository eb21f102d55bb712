"""Tiny networks of faces in the layout of the published files; one of them finds faces for certain.

The finder's heads say "a face of 64 pixels" wherever the picture is bright and nothing else, so
that a test knows where a face is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sdforge.models.faces.codeformer import CodeFormer
from sdforge.models.faces.gfpgan import Gfpgan
from sdforge.models.faces.retinaface import RetinaFace
from sdforge.models.faces.shapes import CodeFormerShape, FinderShape, GfpganShape

SIDE = 64
GFPGAN_SHAPE = GfpganShape(unet=(8, 8, 8, 8, 4), decoder=(16, 16, 16, 16, 8), style=8, is_half=True)
CODEFORMER_SHAPE = CodeFormerShape(
    widths=(32, 32, 64), code=16, features=16, entries=24, transformer=16, hidden=32, layers=2,
    fused=(32, 64),
)  # fmt: skip
FINDER_SHAPE = FinderShape(first=4, widths=(2, 2, 2, 2), depths=(1, 2, 1, 1), features=8)


def random_weights(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Return weights that keep numbers within range."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in network.state_dict().items():
        fan_in = max(value[0].numel(), 1) if value.ndim > 1 else 4
        weights[name] = torch.randn(value.shape, generator=generator) / fan_in**0.5
        if name.endswith("running_var"):
            weights[name] = torch.ones_like(value)
    return weights


def write_faces(models: Path, *, finder: bool = True, everywhere: bool = False) -> None:
    """Write the three files below a folder of models, as they are published (.pth).

    Args:
        models: the folder.
        finder: whether the one that finds faces is there.
        everywhere: whether it finds large faces all over whatever it sees.
    """
    put(models / "GFPGAN" / "GFPGANv1.4.pth", "params_ema", random_weights(Gfpgan(GFPGAN_SHAPE)))
    weights = random_weights(CodeFormer(CODEFORMER_SHAPE), 1)
    put(models / "Codeformer" / "codeformer-v0.1.0.pth", "params_ema", weights)
    if finder:
        found = finder_weights(everywhere=everywhere)
        put(models / "GFPGAN" / "detection_Resnet50_Final.pth", "", found)


def put(path: Path, wrapper: str, weights: dict[str, Tensor]) -> None:
    """Write a file as torch does, its tensors below a key as trainers have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({wrapper: weights} if wrapper else weights, path)


def finder_weights(*, everywhere: bool = False) -> dict[str, Tensor]:
    """Return weights of a finder that sees blue: the first channel of everything is it.

    All else is zero. Of the two boxes of every place of the middle grid the smaller, of 64 pixels,
    is a face where the picture is bright; `everywhere` the larger of the last grid, of 512, is.
    """
    network = RetinaFace(FINDER_SHAPE)
    weights = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    for name, value in weights.items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", ".1.weight")):
            value.fill_(1.0)
    stages = [f"body.layer{number}.0.downsample.0" for number in (1, 2, 3)]
    for name in ["body.conv1", *stages, "fpn.output2.0", "fpn.merge2.0", "ssh2.conv3X3.0"]:
        weight = weights[f"{name}.weight"]
        middle = weight.shape[2] // 2
        weight[0, 0, middle, middle] = 1.0
    # Two boxes with two classes each, the second of which is "a face"; a score above 0.97 takes a
    # difference of 3.5. Brightness less the mean is at most 151.
    for grid in range(3):
        weights[f"ClassHead.{grid}.conv1x1.bias"][:] = torch.tensor([10.0, -10.0, 10.0, -10.0])
    weights["ClassHead.1.conv1x1.weight"][1, 0] = 0.0 if everywhere else 0.2
    if everywhere:
        weights["ClassHead.2.conv1x1.bias"][2:] = torch.tensor([-10.0, 10.0])
    # Eyes, nose and corners of the mouth, in tenths of the box's side from its middle.
    points = [-2.5, -1.5, 2.5, -1.5, 0.0, 0.5, -2.0, 2.5, 2.0, 2.5]
    for grid in range(3):
        weights[f"LandmarkHead.{grid}.conv1x1.bias"][:] = torch.tensor(points * 2)
    counters = [name for name in weights if name.endswith("running_var")]
    for name in counters:
        weights[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return weights
