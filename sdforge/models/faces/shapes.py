"""Which network of faces a file holds, read off the names and shapes of its tensors. No torch here.

Known are GFPGAN's "clean" kind (Wang et al. 2021, arXiv:2101.04061; files from version 1.2 on),
CodeFormer (Zhou et al. 2022, arXiv:2206.11253) and the finder of faces that both are used with,
RetinaFace over a ResNet (Deng et al. 2019, arXiv:1905.00641). All widths and sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader

GFPGAN, CODEFORMER, FINDER = "GFPGAN", "CodeFormer", "RetinaFace"
RESTORERS = (CODEFORMER, GFPGAN)

# What trainers wrap around the network's own names.
_WRAPPERS = ("params_ema.", "params.", "state_dict.", "module.")
_MOST_LEVELS = 12
# Two boxes are tried at every place.
BOXES = 2


@dataclass(frozen=True, kw_only=True)
class GfpganShape:
    """GFPGAN: a U-Net that reads a face, and a StyleGAN2 that draws it under the U-Net's advice.

    Attributes:
        unet: channels of the U-Net at 4, 8, 16… pixels.
        decoder: channels of the generator at the same sizes.
        style: numbers of a style.
        is_half: whether only half of the generator's channels take advice.
    """

    unet: tuple[int, ...]
    decoder: tuple[int, ...]
    style: int
    is_half: bool

    @property
    def side(self) -> int:
        """Side of the faces, in pixels."""
        return int(2 ** (len(self.unet) + 1))

    @property
    def levels(self) -> int:
        """How often the size doubles."""
        return len(self.unet) - 1


@dataclass(frozen=True, kw_only=True)
class CodeFormerShape:
    """CodeFormer: an autoencoder whose code a transformer chooses from a book.

    Attributes:
        widths: channels of the autoencoder, from the full size down to the code's.
        code: side of the code.
        features: numbers of one entry of the book.
        entries: of the book.
        transformer: numbers that the transformer has for each place of the code.
        hidden: of its inner layers.
        layers: of the transformer.
        fused: sizes at which what was seen may change what is drawn.
    """

    widths: tuple[int, ...]
    code: int
    features: int
    entries: int
    transformer: int
    hidden: int
    layers: int
    fused: tuple[int, ...]

    @property
    def side(self) -> int:
        """Side of the faces, in pixels."""
        return int(self.code * 2 ** (len(self.widths) - 1))


@dataclass(frozen=True, kw_only=True)
class FinderShape:
    """RetinaFace over a ResNet of bottlenecks.

    Attributes:
        first: channels of the first convolution.
        widths: inner channels of the four stages.
        depths: blocks of the four stages.
        features: channels of the pyramid.
    """

    first: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    features: int

    @property
    def side(self) -> int:
        """It takes any size."""
        return 0


Shape: TypeAlias = GfpganShape | CodeFormerShape | FinderShape


@dataclass(frozen=True, kw_only=True)
class FaceNetwork:
    """What a file holds: the kind, all that building it takes, and network's names → file's."""

    kind: str
    shape: Shape
    keys: Mapping[str, str]


def face_network(header: CheckpointHeader) -> FaceNetwork:
    """Return which network a file holds.

    Raises:
        UnsupportedCheckpoint: none of the known ones.
    """
    keys = _unwrapped(header)
    shapes = {name: header.tensors[key].shape for name, key in keys.items()}
    kind, read = _kind(header, shapes)
    try:
        shape = read(shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise UnsupportedCheckpoint(
            f"{header.path.name} looks like {kind}, but its layers do not fit together: {error}"
        ) from error
    return FaceNetwork(kind=kind, shape=shape, keys=keys)


_Shapes = Mapping[str, tuple[int, ...]]


def _kind(header: CheckpointHeader, shapes: _Shapes) -> tuple[str, Callable[[_Shapes], Shape]]:
    if "stylegan_decoder.constant_input.weight" in shapes:
        if "conv_body_first.weight" in shapes:
            return GFPGAN, _gfpgan
        raise UnsupportedCheckpoint(
            f"{header.path.name} holds GFPGAN's first version, which needs operations of its own; "
            "take one from 1.2 on, such as GFPGANv1.4.pth"
        )
    if {"quantize.embedding.weight", "position_emb", "feat_emb.weight"} <= shapes.keys():
        return CODEFORMER, _codeformer
    if {"body.conv1.weight", "LandmarkHead.0.conv1x1.weight"} <= shapes.keys():
        return FINDER, _finder
    raise UnsupportedCheckpoint(
        f"{header.path.name} holds no network of faces that this version knows: GFPGAN from 1.2 "
        "on, CodeFormer, or RetinaFace over a ResNet to find them"
    )


def _unwrapped(header: CheckpointHeader) -> dict[str, str]:
    for wrapper in _WRAPPERS:
        found = header.under(wrapper)
        if found:
            return dict(found)
    return {key: key for key in header.tensors}


def _gfpgan(shapes: _Shapes) -> GfpganShape:
    levels = _count(shapes, r"conv_body_up\.(\d+)\.")
    if not 1 <= levels <= _MOST_LEVELS:
        raise ValueError(f"it doubles {levels} times")
    down = [shapes[f"conv_body_down.{number}.conv2.weight"][0] for number in range(levels)]
    unet = (*reversed(down), shapes["conv_body_first.weight"][0])
    decoder = [shapes["stylegan_decoder.constant_input.weight"][1]]
    for number in range(levels):
        name = f"stylegan_decoder.style_convs.{2 * number}.modulated_conv.weight"
        decoder.append(shapes[name][1])
    modulation = "stylegan_decoder.style_conv1.modulated_conv.modulation.weight"
    style, rows = shapes[modulation][1], shapes["final_linear.weight"][0]
    if rows != style * (2 * levels + 2):
        raise ValueError(f"it has {rows} numbers of style, not {style} for each layer")
    advice = shapes["condition_scale.0.2.weight"][0]
    return GfpganShape(
        unet=unet, decoder=tuple(decoder), style=style, is_half=advice * 2 == decoder[1]
    )


def _codeformer(shapes: _Shapes) -> CodeFormerShape:
    places, transformer = shapes["position_emb"]
    code = math.isqrt(places)
    downs = [
        int(found[1])
        for name in shapes
        if (found := re.fullmatch(r"encoder\.blocks\.(\d+)\.conv\.weight", name))
    ]
    if code * code != places or not 0 < len(downs) <= _MOST_LEVELS:
        raise ValueError(f"its code has {places} places, and it halves {len(downs)} times")
    # What a size ends with is what is halved then; the last one ends with the code's own channels.
    widths = [shapes[f"encoder.blocks.{number}.conv.weight"][0] for number in sorted(downs)]
    last = shapes["generator.blocks.0.weight"][0]
    entries, features = shapes["quantize.embedding.weight"]
    fused = sorted(
        {int(found[1]) for name in shapes if (found := re.match(r"fuse_convs_dict\.(\d+)\.", name))}
    )
    if not set(fused) <= {code * 2**level for level in range(1, len(downs) + 1)}:
        raise ValueError(f"it is fused at {fused} pixels")
    return CodeFormerShape(
        widths=(*widths, last),
        code=code,
        features=features,
        entries=entries,
        transformer=transformer,
        hidden=shapes["ft_layers.0.linear1.weight"][0],
        layers=_count(shapes, r"ft_layers\.(\d+)\."),
        fused=tuple(fused),
    )


def _finder(shapes: _Shapes) -> FinderShape:
    if shapes["ClassHead.0.conv1x1.weight"][0] != 2 * BOXES:
        raise ValueError("it does not try two boxes at every place")
    stages = range(1, 5)
    return FinderShape(
        first=shapes["body.conv1.weight"][0],
        widths=tuple(shapes[f"body.layer{stage}.0.conv1.weight"][0] for stage in stages),
        depths=tuple(_count(shapes, rf"body\.layer{stage}\.(\d+)\.") for stage in stages),
        features=shapes["fpn.output1.0.weight"][0],
    )


def _count(shapes: _Shapes, pattern: str) -> int:
    """Return how many numbered parts there are."""
    numbers = {int(found[1]) for name in shapes if (found := re.match(pattern, name))}
    if numbers != set(range(len(numbers))):
        raise ValueError(f"parts are missing among {sorted(numbers)}")
    return len(numbers)
