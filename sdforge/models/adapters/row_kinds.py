"""Adapters of a file's layer whose rows lie otherwise in the network than in the file.

Files that fuse query, key and value hold one adapter for what are several layers here, and a last
modulation may have its halves the other way round. `lora.py` wraps kinds so where `lora_keys.py`
says it; `kinds.py` knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sdforge.models.adapters.kinds import Dora, Glora, Ia3, Kind, Lora, Shape, Sum

# A part of a fused weight, as it is now → all rows of it, in fp32 on the same device.
Whole = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class RowsOf(Sum):
    """Rows `start` to `stop` of an adapter that was trained on `total` rows.

    For layers that are one in the file and several in the network: fused q, k and v.
    """

    whole: Sum
    start: int
    stop: int
    total: int

    def fits(self, shape: Shape) -> bool:
        """Tell whether the rows are as many and the whole fits too."""
        return self.stop - self.start == shape[0] and self.whole.fits((self.total, *shape[1:]))

    def delta(self, shape: Shape, like: torch.Tensor) -> torch.Tensor:
        """Return the rows of the whole delta."""
        return self.whole.delta((self.total, *shape[1:]), like)[self.start : self.stop]


@dataclass(frozen=True, eq=False)
class AmongRows:
    """The same as `RowsOf` for kinds whose change depends on the weight.

    Some act on each row alone: of these the rows are cut. Others measure columns or turn rows into
    one another, so they need the layers beside, which `read` fetches.

    Attributes:
        kind: as the file has it, for all rows.
        start: the first of the rows.
        stop: the row behind the last.
        parameters: names of all parameters that the rows lie in, in order.
        total: how many rows these have.
        read: returns the whole weight, with what other adapters made of it before; only needed
            where `reads_beside`.
    """

    kind: Kind
    start: int
    stop: int
    total: int
    parameters: tuple[str, ...]
    read: Whole | None = None

    @property
    def reads_beside(self) -> bool:
        """Whether the rows of the layers beside are needed."""
        return self._cut() is None

    def reading(self, read: Whole) -> AmongRows:
        """Return the same with a way to the layers beside."""
        return replace(self, read=read)

    def fits(self, shape: Shape) -> bool:
        """Tell whether the rows are as many and the kind fits the whole."""
        return self.stop - self.start == shape[0] and self.kind.fits((self.total, *shape[1:]))

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return the changed rows.

        Raises:
            ValueError: the layers beside are needed and there is no way to them.
        """
        cut = self._cut()
        if cut is not None:
            return cut.apply(weight, multiplier)
        if self.read is None:
            raise ValueError("this kind of adapter needs all rows of a fused layer")
        return self.kind.apply(self.read(weight), multiplier)[self.start : self.stop].clone()

    def _cut(self) -> Kind | None:
        """Return the kind for these rows alone, None where rows depend on each other."""
        kind, rows = self.kind, slice(self.start, self.stop)
        if isinstance(kind, Ia3):
            return kind if kind.on_input else replace(kind, vector=kind.vector.flatten()[rows])
        if isinstance(kind, Glora):
            return replace(kind, b=(kind.b[0][rows], kind.b[1]))
        if isinstance(kind, Dora) and kind.is_by_row:
            base = RowsOf(kind.base, self.start, self.stop, self.total)
            return Dora(base, kind.magnitude.flatten()[rows])
        return None


@dataclass(frozen=True, eq=False)
class HalvesSwapped:
    """An adapter of a weight whose second half of rows comes first in the file."""

    kind: Kind

    def fits(self, shape: Shape) -> bool:
        """Tell whether there are halves and the kind fits."""
        return shape[0] % 2 == 0 and self.kind.fits(shape)

    def apply(self, weight: torch.Tensor, multiplier: float) -> torch.Tensor:
        """Return the changed weight, its rows in the order in which they came."""
        return _swapped(self.kind.apply(_swapped(weight), multiplier))


def first_ranks(kind: Kind, rank: int) -> Kind:
    """Return the first ranks of a plain LoRA alone, in whichever rows; others as they are."""
    if isinstance(kind, Lora):
        return kind.cut(rank)
    if isinstance(kind, RowsOf) and isinstance(kind.whole, Lora):
        return replace(kind, whole=kind.whole.cut(rank))
    if isinstance(kind, HalvesSwapped):
        return replace(kind, kind=first_ranks(kind.kind, rank))
    return kind


def _swapped(weight: torch.Tensor) -> torch.Tensor:
    return torch.cat(weight.chunk(2)[::-1])
