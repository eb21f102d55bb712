"""How the VAE works through a picture: whole, row by row of the batch, or tile by tile. No torch.

Tiles bound the memory of any picture by that of one tile. Where main memory has room for what the
layers make, a tiled picture is the whole one; else tiles overlap and are blended, and as their
group norms see a tile instead of the picture, it differs slightly. They are for pictures that would
not fit otherwise, and the larger the tile the better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

# Sides of tiles in latent pixels, best first: 768, 512 and 256 pixels at a downscale of 8.
TILE_SIDES = (96, 64, 32)


class VaeKind(StrEnum):
    """`FULL` takes the batch at once, `SLICED` one picture at a time, `TILED` a tile at a time."""

    FULL = "full"
    SLICED = "sliced"
    TILED = "tiled"


@dataclass(frozen=True)
class VaeMode:
    """One way of working; `tile` and `overlap` count latent pixels and matter to `TILED` only."""

    kind: VaeKind = VaeKind.FULL
    tile: int = 0
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.kind is VaeKind.TILED and not 0 <= self.overlap < self.tile:
            raise ValueError(
                f"a tile of {self.tile} latent pixels cannot overlap by {self.overlap}; "
                "wanted: 0 ≤ overlap < tile"
            )

    @classmethod
    def tiled(cls, side: int) -> VaeMode:
        """Return tiles of this side whose neighbours share a quarter of it."""
        return cls(VaeKind.TILED, side, side // 4)

    def extent(self, batch: int, height: int, width: int) -> tuple[int, int, int]:
        """Return (pictures, height, width) in latent pixels of the most that runs at once."""
        if self.kind is VaeKind.TILED:
            return 1, min(self.tile, height), min(self.tile, width)
        return (batch if self.kind is VaeKind.FULL else 1), height, width

    def describe(self) -> str:
        """Say it in words, for logs."""
        if self.kind is VaeKind.TILED:
            return f"tiled {self.tile}, overlap {self.overlap}"
        return self.kind.value


FULL = VaeMode()
SLICED = VaeMode(VaeKind.SLICED)


def choices(batch: int, height: int, width: int) -> Iterator[VaeMode]:
    """Yield the modes that make sense for a batch of latents, best first."""
    if batch > 1:
        yield FULL
    yield SLICED
    for side in TILE_SIDES:
        if side < max(height, width):
            yield VaeMode.tiled(side)


def choose(
    batch: int,
    height: int,
    width: int,
    *,
    needed: Callable[[int, int, int], int],
    room_bytes: int,
) -> VaeMode:
    """Return the best mode whose memory is there, the smallest tiles when none is.

    Args:
        batch: pictures.
        height: of the latents.
        width: of the latents.
        needed: bytes that (pictures, height, width) in latent pixels take at once.
        room_bytes: what there is.
    """
    last = SLICED
    for mode in choices(batch, height, width):
        last = mode
        if needed(*mode.extent(batch, height, width)) <= room_bytes:
            return mode
    return last
