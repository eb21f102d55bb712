"""What a checkpoint allows in live mode: steps, sizes, guidance, and a LoRA that makes it fast.

Checkpoints that were distilled to draw in a few steps say so by name, metadata or recommendation
(`models/families/fast_kinds.py`). For others a LoRA is looked for that does the same; without one
they are drawn with as many steps as they need, which is said. Pure: the lists are handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sdforge.core.request import Recommended
from sdforge.models.detect import recommended as recommendation
from sdforge.models.families.fast_kinds import FastKind, fast_kind

# Below this a smaller picture is no use, whatever a checkpoint's native size.
_LEAST_SIDE = 256
# Sides have to be a multiple of this: eight pixels a latent, and three halvings in the U-Net.
_MULTIPLE = 64
# Up to here a checkpoint's own recommendation counts as "made for a few steps".
_FEW_STEPS = 8
# Kinds that also draw with fewer steps than recommended, down to this many. Lightning, Hyper and
# DMD files are distilled for one number of steps and fall apart below.
_LEAST_STEPS = {"turbo": 1, "lcm": 2}
_MOST_OF_TURBO = 4
_USUAL_STEPS = (20, 15, 12, 10, 8)
_USUAL_CFG, _USUAL_SIDE = 7.0, 512


class CheckpointLike(Protocol):
    """What is read of a checkpoint."""

    @property
    def name(self) -> str:
        """The file's name without suffix."""

    @property
    def family(self) -> str | None:
        """Short name of its family."""

    @property
    def recommended(self) -> Recommended:
        """What it was made for."""


class FamilyLike(Protocol):
    """For which models a LoRA is."""

    @property
    def family(self) -> str:
        """Short name of the family."""


class LoraLike(Protocol):
    """What is read of a LoRA file."""

    @property
    def name(self) -> str:
        """What prompts call it."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What its trainer wrote into it."""

    @property
    def family(self) -> FamilyLike | None:
        """For which models it is, None where nothing tells."""

    @property
    def error(self) -> str | None:
        """Why it cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What live mode does with a checkpoint.

    Attributes:
        steps: numbers of steps that make sense, most first.
        sizes: (width, height) that it draws well at, largest first.
        cfg_scale: of guidance; 1 means none.
        sampler: registered name.
        lora: name of the LoRA that makes it fast, "" for none.
        is_fast: whether it draws in a few steps.
        reason: a sentence on why.
    """

    steps: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    cfg_scale: float
    sampler: str
    lora: str = ""
    is_fast: bool = True
    reason: str = ""


def choice_for(
    checkpoint: CheckpointLike, loras: Sequence[LoraLike], *, speed_lora: bool = True
) -> Choice:
    """Return what live mode does with a checkpoint; `speed_lora` False leaves LoRA out."""
    said = checkpoint.recommended
    kind = fast_kind(checkpoint.name, {})
    if said.steps is not None and said.steps <= _FEW_STEPS:
        reason = f"{checkpoint.name} was made for {said.steps} steps"
        return _few_steps(kind.name if kind else "", said, said, "", reason)
    if speed_lora and (found := _speed_lora(checkpoint, loras)) is not None:
        lora, lora_kind = found
        own = recommendation(lora.metadata, lora_kind.recommended)
        reason = f"The LoRA {lora.name} lets {checkpoint.name} draw in a few steps"
        return _few_steps(lora_kind.name, own, said, lora.name, reason)
    steps = tuple(count for count in _USUAL_STEPS if count <= (said.steps or _USUAL_STEPS[0]))
    return Choice(
        steps=steps or (said.steps or _USUAL_STEPS[-1],),
        sizes=_sizes(said),
        cfg_scale=said.cfg_scale if said.cfg_scale is not None else _USUAL_CFG,
        sampler=said.sampler or "Euler a",
        is_fast=False,
        reason=(
            f"{checkpoint.name} was not made for a few steps, so frames take long: choose a Turbo, "
            "LCM or Lightning checkpoint, or put a LoRA of such a kind into the folder Lora"
        ),
    )


def _few_steps(kind: str, said: Recommended, native: Recommended, lora: str, reason: str) -> Choice:
    own = said.steps or _MOST_OF_TURBO
    if kind in _LEAST_STEPS:
        most = max(own, _MOST_OF_TURBO)
        steps = tuple(range(most, _LEAST_STEPS[kind] - 1, -1))
    else:
        steps = (own,)
    return Choice(
        steps=steps,
        sizes=_sizes(native),
        cfg_scale=said.cfg_scale if said.cfg_scale is not None else 1.0,
        sampler=said.sampler or "Euler a",
        lora=lora,
        reason=reason,
    )


def _sizes(said: Recommended) -> tuple[tuple[int, int], ...]:
    """Return the native size, three quarters and half of it, in multiples that U-Nets take."""
    native = (said.width or _USUAL_SIDE, said.height or said.width or _USUAL_SIDE)
    found = {native: None}
    for share in (0.75, 0.5):
        width, height = (int(side * share) // _MULTIPLE * _MULTIPLE for side in native)
        if min(width, height) >= _LEAST_SIDE:
            found[width, height] = None
    return tuple(found)


def _speed_lora(
    checkpoint: CheckpointLike, loras: Sequence[LoraLike]
) -> tuple[LoraLike, FastKind] | None:
    """Return the LoRA that makes a checkpoint fast: the fewest steps count, then the name."""
    found = []
    for lora in loras:
        kind = fast_kind(lora.name, lora.metadata)
        is_other = lora.family is not None and lora.family.family != checkpoint.family
        if kind is None or is_other or lora.error is not None:
            continue
        found.append((kind.recommended.steps or _FEW_STEPS, lora.name, lora, kind))
    if not found:
        return None
    _, _, lora, kind = min(found, key=lambda row: row[:2])
    return lora, kind
