"""A ControlNet unit that can run: its network leased, what it sees made."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from sdforge.core.control import ControlUnit
from sdforge.memory.lease import Lease


@dataclass(frozen=True, eq=False)
class PlacedUnit:
    """A unit that can run now.

    Attributes:
        unit: its values.
        lease: held on its network.
        network: where it computes.
        hint: what it sees, (1, 3, height, width); a transformer's the latents of that, but XLabs'
            pixels from −1 to 1; an IP-Adapter what CLIP says of the picture and, below, of none:
            (2, …).
        mask: where it acts, (1, 1, height, width) from 0 to 1; None for everywhere.
        kind: number of the picture's type, for a union ControlNet; None for others.
        is_soft: outer layers count less.
        features: what adapters and LLLites made of it, which they are asked once; [] before.
    """

    unit: ControlUnit
    lease: Lease
    network: nn.Module
    hint: Tensor
    mask: Tensor | None = None
    kind: int | None = None
    is_soft: bool = False
    features: list[Tensor] = field(default_factory=list)


def rows_of(said: Tensor, rows: list[int], count: int) -> Tensor:
    """Return what is said of some rows, (rows, …), as `count` rows: nothing of the others."""
    if len(rows) == count:
        return said
    whole = said.new_zeros(count, *said.shape[1:])
    whole[rows] = said
    return whole
