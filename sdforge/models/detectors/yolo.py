"""YOLOv8 and YOLO11 with the parameter names of their files: where things of its classes are.

Written from the architecture as published (Jocher et al. 2023 and 2024; what its files hold), whose
parts are: convolutions with SiLU; cross-stage blocks (Wang et al. 2019, arXiv:1911.11929); pooling
over growing windows (He et al. 2014, arXiv:1406.4729); in YOLO11 self-attention at the smallest
map; and answers as distributions of distances (Li et al. 2020, arXiv:2006.04388). Masks are mixed
from prototypes (Bolya et al. 2019, arXiv:1904.02689). Pictures are RGB from 0 to 1,
(1, 3, height, width), sides multiples of 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.detectors.shapes import (
    ANSWER,
    ATTEND,
    BLOCK,
    CONV,
    DOUBLE,
    JOIN,
    POOL,
    ROWS,
    DetectorShape,
)
from sdforge.models.learnt_norm import LearntNorm

_EPSILON = 1e-3
_WINDOW = 5
# In YOLOv8 blocks behind this layer add nothing to what they are given.
_BACKBONE = 10

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Answers:
    """All places of one picture.

    Attributes:
        boxes: (n, 4): left, top, right, bottom in pixels.
        scores: (n, classes), 0 to 1.
        mixes: (n, masks): how much of each prototype its mask has.
        prototypes: (masks, height/4, width/4).
    """

    boxes: Tensor
    scores: Tensor
    mixes: Tensor
    prototypes: Tensor


class Yolo(nn.Module):
    """The whole network."""

    def __init__(self, shape: DetectorShape) -> None:
        """Make the layers of a shape.

        Raises:
            UnsupportedCheckpoint: a tensor is missing that tells a layer's size.
        """
        super().__init__()
        self.shape = shape
        self._row = ROWS[shape.kind]
        try:
            for number, layer in enumerate(self._row):
                made = self._made(layer.kind, str(number), shape.shapes)
                if made is not None:
                    self.add_module(str(number), made)
        except KeyError as missing:
            raise UnsupportedCheckpoint(
                f"this is no whole {shape.kind}: {missing.args[0]} is missing"
            ) from missing

    def _made(self, kind: str, name: str, shapes: Shapes) -> nn.Module | None:
        if kind == CONV:
            return _Conv(shapes, name, stride=2)
        if kind == BLOCK:
            adds = self.shape.kind != "YOLOv8" or int(name) < _BACKBONE
            return _Block(shapes, name, adds=adds)
        if kind == ATTEND:
            return _Attending(shapes, name)
        if kind == POOL:
            return _Pool(shapes, name)
        return _Answer(shapes, name, self.shape.masks) if kind == ANSWER else None

    def forward(self, picture: Tensor) -> Answers:
        """Return what is seen at every place of three maps."""
        seen: list[Tensor] = []
        for number, layer in enumerate(self._row[:-1]):
            given = [seen[at] if seen else picture for at in layer.sources]
            if layer.kind == DOUBLE:
                made = F.interpolate(given[0], scale_factor=2.0, mode="nearest")
            elif layer.kind == JOIN:
                made = torch.cat(given, 1)
            else:
                made = self.get_submodule(str(number))(given[0])
            seen.append(made)
        answer = self.get_submodule(str(len(self._row) - 1))
        found: Answers = answer([seen[at] for at in self._row[-1].sources], picture.shape[2])
        return found


class _Conv(nn.Module):
    """A convolution, its normalisation unless that is merged into it, and SiLU."""

    def __init__(
        self, shapes: Shapes, name: str, stride: int = 1, *, acts: bool = True, apart: bool = False
    ) -> None:
        """Make it of a tensor's shape; `apart` means each channel by itself."""
        super().__init__()
        outputs, inputs, kernel, _ = shapes[f"{name}.conv.weight"]
        is_merged = f"{name}.bn.weight" not in shapes
        groups = outputs if apart else 1
        self.conv = nn.Conv2d(
            inputs * groups, outputs, kernel, stride, kernel // 2, groups=groups, bias=is_merged
        )
        self.bn = None if is_merged else LearntNorm(outputs, _EPSILON)
        self.acts = acts

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x if self.bn is None else self.bn(x)
        return F.silu(x, inplace=True) if self.acts else x


class _Bottleneck(nn.Module):
    """Two convolutions, added to what they are given."""

    def __init__(self, shapes: Shapes, name: str, *, adds: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = (_Conv(shapes, f"{name}.cv{number}") for number in (1, 2))
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        made = self.cv2(self.cv1(x))
        return x + made if self.adds else made


class _Nested(nn.Module):
    """YOLO11's larger bottleneck: a row of small ones beside a plain way."""

    def __init__(self, shapes: Shapes, name: str, *, adds: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = (_Conv(shapes, f"{name}.cv{at}") for at in (1, 2, 3))
        self.m = nn.Sequential(
            *(_Bottleneck(shapes, inner, adds=adds) for inner in _inner(shapes, name))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class _Block(nn.Module):
    """Half of the channels go through bottlenecks, one after another; all that was seen joins."""

    def __init__(self, shapes: Shapes, name: str, *, adds: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = (_Conv(shapes, f"{name}.cv{number}") for number in (1, 2))
        self.m = nn.ModuleList(
            _Nested(shapes, inner, adds=adds)
            if f"{inner}.cv3.conv.weight" in shapes
            else _Bottleneck(shapes, inner, adds=adds)
            for inner in _inner(shapes, name)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for inner in self.m:
            parts.append(inner(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class _Pool(nn.Module):
    """The largest values of windows of 5, 9 and 13 places."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.cv1, self.cv2 = (_Conv(shapes, f"{name}.cv{number}") for number in (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], _WINDOW, stride=1, padding=_WINDOW // 2))
        return self.cv2(torch.cat(parts, 1))


class _Attending(nn.Module):
    """Half of the channels attend to all places of the map."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.cv1, self.cv2 = (_Conv(shapes, f"{name}.cv{number}") for number in (1, 2))
        self.m = nn.Sequential(*(_AttentionBlock(shapes, one) for one in _inner(shapes, name)))

    def forward(self, x: Tensor) -> Tensor:
        plain, attending = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat([plain, self.m(attending)], 1))


class _AttentionBlock(nn.Module):
    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.attn = _Attention(shapes, f"{name}.attn")
        self.ffn = nn.Sequential(
            _Conv(shapes, f"{name}.ffn.0"), _Conv(shapes, f"{name}.ffn.1", acts=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.ffn(x)


class _Attention(nn.Module):
    """Attention whose keys have half as many numbers as its values, with a convolved position."""

    # Numbers of a head's values, in all published sizes.
    HEAD = 64

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.qkv, self.proj = (
            _Conv(shapes, f"{name}.{one}", acts=False) for one in ("qkv", "proj")
        )
        self.pe = _Conv(shapes, f"{name}.pe", acts=False, apart=True)
        width = shapes[f"{name}.proj.conv.weight"][0]
        self.heads = max(width // self.HEAD, 1)
        self.value = width // self.heads
        self.key = self.value // 2

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, across = x.shape
        sizes = [self.key, self.key, self.value]
        rows = self.qkv(x).view(batch, self.heads, sum(sizes), height * across)
        query, key, value = rows.split(sizes, 2)
        looks = (query.transpose(2, 3) @ key * self.key**-0.5).softmax(-1)
        seen = (value @ looks.transpose(2, 3)).view(batch, width, height, across)
        return self.proj(seen + self.pe(value.reshape(batch, width, height, across)))


class _Answer(nn.Module):
    """For every place: how far the box reaches on each side, what is in it, and its mask."""

    def __init__(self, shapes: Shapes, name: str, masks: int) -> None:
        super().__init__()
        parts = {"cv2": 3, "cv3": 3} | ({"cv4": 3} if masks else {})
        for part, maps in parts.items():
            self.add_module(
                part, nn.ModuleList(_said(shapes, f"{name}.{part}.{at}") for at in range(maps))
            )
        self.proto = _Prototypes(shapes, f"{name}.proto") if masks else None

    def forward(self, maps: list[Tensor], height: int) -> Answers:
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, seen in enumerate(maps):
            step = height / seen.shape[2]
            sides = self._said("cv2", number, seen)
            boxes = _boxes(sides, seen.shape[2], seen.shape[3], step)
            mixes = sides[:, :0] if self.proto is None else self._said("cv4", number, seen)
            found.append((boxes, self._said("cv3", number, seen).sigmoid(), mixes))
        boxes, scores, mixes = (torch.cat(parts) for parts in zip(*found, strict=True))
        prototypes = boxes[:0] if self.proto is None else self.proto(maps[0])[0]
        return Answers(boxes, scores, mixes, prototypes)

    def _said(self, part: str, number: int, seen: Tensor) -> Tensor:
        """Return the values of one map's places, (n, values)."""
        said: Tensor = self.get_submodule(f"{part}.{number}")(seen)
        return said[0].flatten(1).T


class _Prototypes(nn.Module):
    """Masks that those of all things are mixed from, at twice the finest map's size."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = (_Conv(shapes, f"{name}.cv{at}") for at in (1, 2, 3))
        inputs, outputs, kernel, _ = shapes[f"{name}.upsample.weight"]
        self.upsample = nn.ConvTranspose2d(inputs, outputs, kernel, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


def _boxes(sides: Tensor, height: int, width: int, step: float) -> Tensor:
    """Return boxes in pixels, from distributions of each side's distance in places of a map."""
    choices = sides.shape[1] // 4
    likely = sides.unflatten(1, (4, choices)).softmax(2)
    distances = likely @ torch.arange(choices, dtype=likely.dtype, device=likely.device)
    rows = torch.arange(height, dtype=likely.dtype, device=likely.device) + 0.5
    columns = torch.arange(width, dtype=likely.dtype, device=likely.device) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()], 1)
    return torch.cat([places - distances[:, :2], places + distances[:, 2:]], 1) * step


def _said(shapes: Shapes, name: str) -> nn.Sequential:
    """Return two convolutions and a plain one; YOLO11 makes each of the two of a pair."""
    parts: list[nn.Module] = []
    for number in (0, 1):
        inner = f"{name}.{number}"
        if f"{inner}.0.conv.weight" in shapes:
            pair = _Conv(shapes, f"{inner}.0", apart=True), _Conv(shapes, f"{inner}.1")
            parts.append(nn.Sequential(*pair))
        else:
            parts.append(_Conv(shapes, inner))
    outputs, inputs, kernel, _ = shapes[f"{name}.2.weight"]
    return nn.Sequential(*parts, nn.Conv2d(inputs, outputs, kernel))


def _inner(shapes: Shapes, name: str) -> list[str]:
    """Return the names of the numbered parts of a block."""
    lead = f"{name}.m."
    numbers = {int(key[len(lead) :].split(".")[0]) for key in shapes if key.startswith(lead)}
    return [f"{lead}{number}" for number in sorted(numbers)]
