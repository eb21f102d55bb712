"""T2I-Adapters: small networks that look at a picture once and add to a U-Net's way down.

diffusers' `T2IAdapter`, filled from files in its own layout or in TencentARC's, whose blocks are
numbered through (Mou et al. 2023, arXiv:2302.08453). What a file is follows from its shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader

FULL, FULL_XL, LIGHT = "full_adapter", "full_adapter_xl", "light_adapter"
_PREFIX = "adapter."
# How often a level's picture is halved by folding pixels into channels: by 8 or, for SDXL, by 16.
_FOLDS = {8: (64, 192), 16: (256, 768)}
_NUMBERED = re.compile(r"body\.(\d+)\.(block1|block2|in_conv)\.(weight|bias)")
_LIGHT = re.compile(r"body\.(\d+)\.body\.(\d+)\.(.+)")


@dataclass(frozen=True, kw_only=True)
class AdapterShape:
    """The arguments of diffusers' class, the family, and each of its names → name in the file."""

    config: Mapping[str, Any]
    family: str
    names: Mapping[str, str]


def is_t2i_adapter(header: CheckpointHeader) -> bool:
    """Say whether a file's tensors have a T2I-Adapter's names."""
    names = header.under(_PREFIX) if header.has_prefix(_PREFIX) else header.under("")
    return any(name.startswith("body.0.") for name in names)


def adapter_shape(header: CheckpointHeader) -> AdapterShape:
    """Return what kind of T2I-Adapter a file is.

    Raises:
        MissingModel: parts of it are missing.
        UnsupportedCheckpoint: it is for pictures of another kind.
    """
    found = header.under(_PREFIX) if header.has_prefix(_PREFIX) else header.under("")
    is_light = "body.0.out_conv.weight" in found
    per_level = _blocks_per_level(found)
    names = {
        _PREFIX + _own_name(name, per_level, is_light=is_light): key for name, key in found.items()
    }
    first = names.get(f"{_PREFIX}{'body.0.in_conv' if is_light else 'conv_in'}.weight")
    widths = _widths(header, names, is_light=is_light)
    if first is None or not widths:
        raise MissingModel(f"the T2I-Adapter in {header.path.name} is incomplete")
    channels = header.tensors[first].shape[1]
    fold = next((fold for fold, counts in _FOLDS.items() if channels in counts), None)
    if fold is None:
        raise UnsupportedCheckpoint(
            f"the T2I-Adapter in {header.path.name} cannot be run: it sees {channels} channels, "
            "64, 192, 256 or 768 were expected"
        )
    kind = LIGHT if is_light else FULL_XL if fold == 16 else FULL
    # The light one's last level repeats the width before, which its class knows by itself.
    levels = widths[:-1] if is_light else widths
    return AdapterShape(
        config={
            "in_channels": channels // fold**2,
            "channels": levels,
            "num_res_blocks": 1 + _most(names, _PREFIX + r"body\.0\.resnets\.(\d+)\..+"),
            "downscale_factor": fold,
            "adapter_type": kind,
        },
        family="sdxl" if kind == FULL_XL else "sd1",
        names=names,
    )


def _blocks_per_level(names: Mapping[str, str]) -> int:
    """Return how many blocks a level has where blocks are numbered through; 0 where they are not.

    There are four levels in all adapters that are so numbered.
    """
    numbers = [int(match[1]) for match in map(_NUMBERED.fullmatch, names) if match]
    is_numbered = any(name.startswith("body.0.block1.") for name in names)
    return (max(numbers, default=0) + 1) // 4 if is_numbered else 0


def _own_name(name: str, per_level: int, *, is_light: bool) -> str:
    """Return diffusers' name, without its prefix, of a tensor."""
    if is_light and (match := _LIGHT.fullmatch(name)):
        return f"body.{match[1]}.resnets.{match[2]}.{match[3]}"
    match = _NUMBERED.fullmatch(name) if per_level else None
    if match is None:
        return name
    level, place = divmod(int(match[1]), per_level)
    if match[2] == "in_conv":
        return f"body.{level}.in_conv.{match[3]}"
    return f"body.{level}.resnets.{place}.{match[2]}.{match[3]}"


def _widths(
    header: CheckpointHeader, names: Mapping[str, str], *, is_light: bool
) -> tuple[int, ...]:
    """Return the channels of what each level says."""
    end = "out_conv.weight" if is_light else "resnets.0.block1.weight"
    widths: list[int] = []
    while (key := names.get(f"{_PREFIX}body.{len(widths)}.{end}")) is not None:
        widths.append(header.tensors[key].shape[0])
    return tuple(widths)


def _most(names: Mapping[str, str], pattern: str) -> int:
    found = (re.fullmatch(pattern, name) for name in names)
    return max((int(match[1]) for match in found if match), default=0)
