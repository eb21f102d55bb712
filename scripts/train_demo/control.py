"""An edge ControlNet for the demo's denoiser: edges of pictures, training, file, effect.

The network is the usual one: a copy of the denoiser's way down, a small head for the edge picture,
and convolutions that start at zero where it is added. The file has the original ControlNet's names
(`control_model.…`). Edges are Canny's, in numpy, at the same size as the picture.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.nn import functional as F

from .export import save
from .ldm_keys import UNET_PREFIX, Weights, unet_to_ldm

PREFIX = "control_model."
INNERMOST = re.compile(
    r"control_model\.(input_blocks\.(6|7|8|9|10|11)|middle_block)\..*"
    r"(in_layers\.2|out_layers\.3|op)\.weight"
)
"""The 3x3 convolutions of the three smallest levels: a third of all numbers."""
LOW, HIGH = 0.10, 0.25
"""Canny's thresholds, as parts of the steepest possible edge."""


def canny(picture: np.ndarray, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """Edges of a picture [h, w, 3] in 0..1: bool [h, w].

    Gauss blur, Sobel gradients of the steepest colour channel, only ridges of the gradient stay,
    and weak edges only where they touch strong ones.
    """
    channels = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[:, None]
    bell = torch.tensor([0.06136, 0.24477, 0.38774, 0.24477, 0.06136])
    smooth = F.conv2d(F.pad(channels, (2,) * 4, "replicate"), (bell[:, None] * bell)[None, None])
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    padded = F.pad(smooth, (1,) * 4, "replicate")
    slopes = F.conv2d(padded, torch.stack([sobel, sobel.T])[:, None])
    lengths = slopes.norm(dim=1)
    steepest = lengths.argmax(0, keepdim=True)
    steep = lengths.gather(0, steepest)[0].numpy()
    across, down = (slopes[:, i].gather(0, steepest)[0].numpy() for i in (0, 1))
    sector = np.round(np.arctan2(down, across) / (np.pi / 4)).astype(int) % 4
    framed = np.pad(steep, 1)
    ridge = np.zeros(steep.shape, bool)
    height, width = steep.shape
    for number, (y, x) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = framed[1 + y : 1 + y + height, 1 + x : 1 + x + width]
        behind = framed[1 - y : 1 - y + height, 1 - x : 1 - x + width]
        ridge |= (sector == number) & (steep >= ahead) & (steep > behind)
    edges = ridge & (steep > high)
    weak = ridge & (steep > low)
    while True:
        grown = np.zeros_like(edges)
        framed_edges = np.pad(edges, 1)
        for y in range(3):
            for x in range(3):
                grown |= framed_edges[y : y + height, x : x + width]
        grown &= weak
        if (grown == edges).all():
            return edges
        edges = grown


def edge_picture(edges: np.ndarray) -> torch.Tensor:
    """White edges on black as the network takes them, [3, h, w] in 0..1."""
    return torch.from_numpy(edges.astype(np.float32))[None].expand(3, -1, -1)


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """How well two edge maps lie on each other, 0..1: shares within two pixels, harmonic mean."""

    def near(edges: np.ndarray) -> np.ndarray:
        wide = F.max_pool2d(torch.from_numpy(edges.astype(np.float32))[None, None], 5, 1, 2)
        found: np.ndarray = wide[0, 0].numpy() > 0
        return found

    if not first.any() or not second.any():
        return 0.0
    precision = (first & near(second)).sum() / first.sum()
    recall = (second & near(first)).sum() / second.sum()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A fresh ControlNet that starts as a copy of this denoiser and adds nothing yet."""
    return ControlNetModel.from_unet(unet, conditioning_channels=3)


def controlnet_to_ldm(weights: Weights) -> Weights:
    """A ControlNetModel's weights under the original names."""
    renamed: Weights = {}
    shared = {}
    hints = sorted(
        {int(m[1]) for k in weights if (m := re.search(r"cond_embedding\.blocks\.(\d+)\.", k))}
    )
    for key, value in weights.items():
        number, leaf = key.split(".")[-2], key.rpartition(".")[2]
        if key.startswith("controlnet_down_blocks."):
            renamed[f"{PREFIX}zero_convs.{number}.0.{leaf}"] = value
        elif key.startswith("controlnet_mid_block."):
            renamed[f"{PREFIX}middle_block_out.0.{leaf}"] = value
        elif key.startswith("controlnet_cond_embedding."):
            part = key.split(".")[1]
            place = {"conv_in": 0, "conv_out": 2 * len(hints) + 2}.get(part)
            place = 2 * int(number) + 2 if place is None else place
            renamed[f"{PREFIX}input_hint_block.{place}.{leaf}"] = value
        else:
            shared[key] = value
    for name, value in unet_to_ldm(shared).items():
        renamed[PREFIX + name.removeprefix(UNET_PREFIX)] = value
    return renamed


def write(network: ControlNetModel, path: Path) -> None:
    """Write the ControlNet: half precision, its innermost convolutions as fp8 to stay small."""
    weights = {
        name: value.detach()
        .to(torch.float8_e4m3fn if INNERMOST.fullmatch(name) else torch.float16)
        .contiguous()
        for name, value in controlnet_to_ldm(network.state_dict()).items()
    }
    about = {
        "modelspec.architecture": "stable-diffusion-v1/controlnet",
        "modelspec.title": "sdforge demo, canny ControlNet",
        "modelspec.license": "Apache-2.0; credits in NOTICE.md",
        "sdforge.preprocessor": "canny",
    }
    save(weights, about, path)
