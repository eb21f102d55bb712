"""CLIP's vision transformer, with the parameter names of the files: what IP-Adapters look through.

Its layers are `clip.py`'s; held against transformers' in a test. Radford et al. 2021,
arXiv:2103.00020; OpenCLIP's have the exact GELU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.clip import ClipLayer
from sdforge.models.families.base import Recipe, Source
from sdforge.models.skeleton import Skeleton

_PREFIX = "vision_model."
_PROJECTION = "visual_projection.weight"
# All of CLIP's vision transformers but the base one have 16 heads, of 64, 80 or 104 numbers.
_HEADS, _BASE_HEADS, _BASE_WIDTH = 16, 12, 768
# OpenAI's one of this size has an approximation of GELU; OpenCLIP's larger ones the exact one.
_QUICK_WIDTH = 1024
# Of longer pictures the ends are left out before the rest is resized: only the middle is seen, and
# a line of pixels would become gigabytes.
_LONGEST = 8
# What each channel of a picture is brought to (OpenAI's numbers, used by OpenCLIP too).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_SPREAD = (0.26862954, 0.26130258, 0.27577711)


class ClipVisionModel(nn.Module):
    """Pictures (rows, 3, side, side) to what IP-Adapters take of them."""

    def __init__(
        self,
        *,
        width: int,
        inner: int,
        layers: int,
        heads: int,
        patch: int,
        places: int,
        projection: int,
        quick_gelu: bool,
    ) -> None:
        """Take the sizes; `places` counts the patches and the one before them."""
        super().__init__()
        self.side = patch * round((places - 1) ** 0.5)
        self.config = {"heads": heads, "quick_gelu": quick_gelu, "side": self.side}
        self.embeddings = _Embeddings(width, patch, places)
        # Misspelled in the files.
        self.pre_layrnorm = nn.LayerNorm(width)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            ClipLayer(width, inner, heads, is_quick=quick_gelu, is_causal=False)
            for _ in range(layers)
        )
        self.post_layernorm = nn.LayerNorm(width)
        self.visual_projection = nn.Linear(width, projection, bias=False)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the picture's vector (rows, projection) and its places' (rows, places, width).

        The vectors of places are those before the last layer, which IP-Adapter Plus takes.
        """
        states = self.pre_layrnorm(self.embeddings(pixels))
        layers: Any = self.encoder.layers
        before = states
        for layer in layers:
            before = states
            states = layer(states)
        return self.visual_projection(self.post_layernorm(states[:, 0])), before


class _Embeddings(nn.Module):
    def __init__(self, width: int, patch: int, places: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding.from_pretrained(torch.empty(places, width))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        states = torch.cat([first, patches], dim=1)
        return states + self.position_embedding(torch.arange(states.shape[1], device=pixels.device))


def clip_input(picture: Image.Image, side: int) -> torch.Tensor:
    """Return a picture as the network sees it, (1, 3, side, side): its middle, channels evened.

    In Pillow's numbers, which the networks were trained with.

    Args:
        picture: RGB, of any size.
        side: of the network's pictures, in pixels.
    """
    short = min(picture.size)
    if max(picture.size) > _LONGEST * short:
        left, top = (max(length - _LONGEST * short, 0) // 2 for length in picture.size)
        picture = picture.crop((left, top, picture.width - left, picture.height - top))
    size = (picture.width * side // short, picture.height * side // short)
    fitted = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    middle = torch.from_numpy(fitted[top : top + side, left : left + side].copy())
    evened = (middle - torch.tensor(_MEAN)) / torch.tensor(_SPREAD)
    return evened.permute(2, 0, 1)[None].contiguous()


def vision_bytes(module: ClipVisionModel, rows: int, dtype: torch.dtype) -> int:
    """Return the bytes of a run's activations: the widest layer's, and the states beside it."""
    places, width = module.embeddings.position_embedding.weight.shape
    inner = 4 * width
    return int(rows * places * (2 * inner + 4 * width) * dtype.itemsize)


def clip_vision_recipe(header: CheckpointHeader, role: str) -> Recipe:
    """Return how to make the network of a file, all shapes checked.

    Raises:
        MissingModel: parts of it are missing.
        UnsupportedCheckpoint: its shapes do not fit together.
    """
    shapes = {name: info.shape for name, info in header.tensors.items()}
    with torch.device("meta"):
        module = ClipVisionModel(**_sizes(header, shapes))
    sources = {}
    for name, tensor in module.state_dict().items():
        key = name if name == _PROJECTION else _PREFIX + name
        if key not in shapes:
            raise MissingModel(f"the CLIP encoder in {header.path.name} is incomplete: no {key}")
        if shapes[key] != tuple(tensor.shape):
            raise UnsupportedCheckpoint(
                f"the CLIP encoder in {header.path.name} cannot be run: {key} has the shape "
                f"{list(shapes[key])}, {list(tensor.shape)} was expected"
            )
        sources[name] = Source(key, shapes[key])
    return Recipe(role=role, layout=header.layout, skeleton=Skeleton(module), sources=sources)


def _sizes(header: CheckpointHeader, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    layers = 0
    while f"{_PREFIX}encoder.layers.{layers}.mlp.fc1.weight" in shapes:
        layers += 1
    try:
        inner, width = shapes[f"{_PREFIX}encoder.layers.0.mlp.fc1.weight"]
        places = shapes[f"{_PREFIX}embeddings.position_embedding.weight"][0]
        patch = shapes[f"{_PREFIX}embeddings.patch_embedding.weight"][-1]
        projection = shapes[_PROJECTION][0]
    except KeyError as error:
        raise MissingModel(
            f"the CLIP encoder in {header.path.name} is incomplete: no {error.args[0]}"
        ) from error
    heads = _BASE_HEADS if width == _BASE_WIDTH else _HEADS
    if width % heads:
        raise UnsupportedCheckpoint(
            f"the CLIP encoder in {header.path.name} cannot be run: its width {width} is not a "
            f"multiple of {heads}"
        )
    return {
        "width": width, "inner": inner, "layers": layers, "heads": heads, "patch": patch,
        "places": places, "projection": projection,
        "quick_gelu": width in (_BASE_WIDTH, _QUICK_WIDTH),
    }  # fmt: skip
