"""Which upscaler network a file holds, read off the names and shapes of its tensors. No torch here.

Two kinds are known: ESRGAN (dense blocks in residual blocks, RRDB; Wang et al. 2018,
arXiv:1809.00219; with a squeeze in front as in Real-ESRGAN, arXiv:2107.10833) in the three
spellings that files come in, and Real-ESRGAN's "compact" row of convolutions. All scales, widths,
depths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader

ESRGAN = "ESRGAN"
COMPACT = "compact"
COLOURS = 3

# What trainers wrap around the network's own names.
_WRAPPERS = ("params_ema.", "params-ema.", "params.", "model.module.", "module.", "state_dict.")
_LARGEST_SCALE = 16
_INNERMOST = "body.0.rdb1.conv1.weight"

Shapes = Mapping[str, tuple[int, ...]]
Rename = Callable[[str], str | None]


@dataclass(frozen=True, kw_only=True)
class UpscalerShape:
    """Everything that building a network takes.

    Attributes:
        kind: `ESRGAN` or `COMPACT`.
        scale: how many times larger pictures become.
        features: channels inside.
        blocks: residual blocks, or convolutions between the first and the last.
        growth: channels that each convolution of a dense block adds.
        squeeze: side of the squares of pixels that are made channels before anything else.
        doublings: how often the inner picture doubles.
        has_shortcuts: dense blocks have a 1 × 1 convolution beside them (ESRGAN+).
        keys: tensor of the network → tensor of the file.
    """

    kind: str
    scale: int
    features: int
    blocks: int
    keys: Mapping[str, str]
    growth: int = 0
    squeeze: int = 1
    doublings: int = 0
    has_shortcuts: bool = False

    @property
    def reason(self) -> str:
        """What it is, in words."""
        what = "residual dense blocks" if self.kind == ESRGAN else "convolutions"
        return f"{self.kind} ×{self.scale}: {self.blocks} {what} of {self.features} channels"


def upscaler_shape(header: CheckpointHeader) -> UpscalerShape:
    """Return which network a file holds.

    Raises:
        UnsupportedCheckpoint: none of the known ones.
    """
    names = _unwrapped(header)
    shapes = {name: header.tensors[key].shape for name, key in names.items()}
    for rename in (_plain_name, _early_name, _oldest_names(shapes)):
        renamed = {new: name for name in names if (new := rename(name)) is not None}
        if {"conv_first.weight", "conv_last.weight", _INNERMOST} <= renamed.keys():
            keys = {new: names[name] for new, name in renamed.items()}
            return _esrgan(header, keys)
    if "body.0.weight" in names:
        return _compact(header, {name: key for name, key in names.items() if "body." in name})
    raise UnsupportedCheckpoint(
        f"{header.path.name} holds no upscaler that this version knows: neither ESRGAN nor "
        "Real-ESRGAN's compact kind"
    )


def _unwrapped(header: CheckpointHeader) -> dict[str, str]:
    """Return the tensors by their names in the network; the averaged ones where there are both."""
    for wrapper in _WRAPPERS:
        found = header.under(wrapper)
        if found:
            return dict(found)
    return {key: key for key in header.tensors}


# --- names -------------------------------------------------------------------------------------


def _plain_name(name: str) -> str | None:
    """Real-ESRGAN's names, which are ours but for the shortcut."""
    return name.replace(".conv1x1.", ".shortcut.")


_EARLY = (
    (re.compile(r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\."), r"body.\1.rdb\2.conv\3."),
    (re.compile(r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv1x1\."), r"body.\1.rdb\2.shortcut."),
    (re.compile(r"trunk_conv\."), "conv_body."),
    (re.compile(r"upconv(\d)\."), r"conv_up\1."),
    (re.compile(r"HRconv\."), "conv_hr."),
    (re.compile(r"(conv_first|conv_last)\."), r"\1."),
)


def _early_name(name: str) -> str | None:
    """ESRGAN's second spelling, with a trunk."""
    for pattern, new in _EARLY:
        if found := pattern.match(name):
            return found.expand(new) + name[found.end() :]
    return None


_OLDEST_BLOCK = re.compile(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d|1x1)(?:\.0)?\.(weight|bias)")
_OLDEST_BODY = re.compile(r"model\.1\.sub\.\d+\.(weight|bias)")
_OLDEST_LAYER = re.compile(r"model\.(\d+)\.(weight|bias)")


def _oldest_names(shapes: Shapes) -> Rename:
    """Return the way from ESRGAN's first spelling: numbers of layers in a row.

    Behind the body come a convolution for each doubling, one at full size and the last, with
    layers between them that have no tensors.
    """
    layers = {int(found[1]) for name in shapes if (found := _OLDEST_LAYER.fullmatch(name))}
    order = sorted(layers)
    places = {layer: f"conv_up{number}" for number, layer in enumerate(order[1:-2], 1)}
    if len(order) > 2:
        places |= {order[0]: "conv_first", order[-2]: "conv_hr", order[-1]: "conv_last"}

    def rename(name: str) -> str | None:
        if found := _OLDEST_BLOCK.fullmatch(name):
            part = "shortcut" if found[3] == "1x1" else f"conv{found[3]}"
            return f"body.{found[1]}.rdb{found[2]}.{part}.{found[4]}"
        if found := _OLDEST_BODY.fullmatch(name):
            return f"conv_body.{found[1]}"
        if (found := _OLDEST_LAYER.fullmatch(name)) and int(found[1]) in places:
            return f"{places[int(found[1])]}.{found[2]}"
        return None

    return rename


# --- shapes ------------------------------------------------------------------------------------


def _esrgan(header: CheckpointHeader, keys: dict[str, str]) -> UpscalerShape:
    shapes = {name: header.tensors[key].shape for name, key in keys.items()}
    first, last = shapes["conv_first.weight"], shapes["conv_last.weight"]
    numbers = {int(name.split(".")[1]) for name in shapes if name.startswith("body.")}
    dense = shapes[_INNERMOST]
    doublings = sum(name.startswith("conv_up") and name.endswith(".weight") for name in shapes)
    if len(first) != 4 or len(last) != 4 or len(dense) != 4:
        raise _unknown(header, "its layers are not those of an ESRGAN")
    squeeze = math.isqrt(first[1] // COLOURS)
    if last[0] != COLOURS or first[1] != COLOURS * squeeze**2:
        raise _unknown(header, f"it maps {first[1]} channels to {last[0]}, not 3 to 3")
    scale = 2**doublings // squeeze
    if not scale or scale > _LARGEST_SCALE or 2**doublings % squeeze:
        raise _unknown(header, f"it doubles {doublings} times behind a squeeze by {squeeze}")
    return UpscalerShape(
        kind=ESRGAN,
        scale=scale,
        features=first[0],
        blocks=max(numbers) + 1,
        growth=dense[0],
        squeeze=squeeze,
        doublings=doublings,
        has_shortcuts="body.0.rdb1.shortcut.weight" in shapes,
        keys=keys,
    )


def _compact(header: CheckpointHeader, keys: dict[str, str]) -> UpscalerShape:
    numbers = sorted({int(name.split(".")[1]) for name in keys})
    shapes = {number: header.tensors[keys[f"body.{number}.weight"]].shape for number in numbers}
    first, last = shapes[0], shapes[numbers[-1]]
    if numbers != list(range(len(numbers))) or len(numbers) < 3 or len(numbers) % 2 == 0:
        raise _unknown(header, "its rows of convolutions and slopes have gaps")
    if len(first) != 4 or len(last) != 4 or first[1] != COLOURS:
        raise _unknown(header, "its layers are not those of a compact upscaler")
    scale = math.isqrt(last[0] // COLOURS)
    if not 1 <= scale <= _LARGEST_SCALE or last[0] != COLOURS * scale**2:
        raise _unknown(header, f"its last layer has {last[0]} channels")
    return UpscalerShape(
        kind=COMPACT, scale=scale, features=first[0], blocks=(len(numbers) - 3) // 2, keys=keys
    )


def _unknown(header: CheckpointHeader, why: str) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(f"the upscaler in {header.path.name} cannot be run: {why}")
