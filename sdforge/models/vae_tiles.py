"""Running a VAE tile by tile: overlapping tiles, each computed alone, blended by ramps.

Every output pixel is a weighted mean of the tiles that cover it. A tile's weight rises from its
edge across the overlap and is 1 inside, and the weights of all tiles are divided by their sum, so
neighbours fade into each other whatever their sizes. Tiles at the border of the picture have no
ramp there. One tile's activations are alive at a time; the sums are kept in fp32 on the host.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Compute = Callable[[torch.Tensor], torch.Tensor]
# What is called after each tile; it may raise to stop.
OnTile = Callable[[], None]


def nothing() -> None:
    """Let the tiles go on."""


def starts(length: int, tile: int, overlap: int, multiple: int = 1) -> list[int]:
    """Return where tiles begin so that they cover `length`, sharing `overlap` or more.

    They are spread evenly instead of ending in a narrow one: a sliver would have norms of its own.
    All numbers are multiples of `multiple`, and so are the results.
    """
    if tile >= length:
        return [0]
    length, tile, overlap = length // multiple, tile // multiple, overlap // multiple
    count = -(-(length - overlap) // (tile - overlap))
    # Rounded down, steps differ by one at most, and by never more than tile − overlap.
    return [index * (length - tile) // (count - 1) * multiple for index in range(count)]


def run_tiled(
    source: torch.Tensor,
    compute: Compute,
    *,
    tile: int,
    overlap: int,
    ratio: float,
    multiple: int = 1,
    on_tile: OnTile = nothing,
) -> torch.Tensor:
    """Return `compute(source)`, put together from tiles, in fp32 on the host.

    Args:
        source: (1, channels, height, width), latents or pixels.
        compute: maps a tile to its result, `ratio` times as high and wide.
        tile: side of a tile, in pixels of `source`.
        overlap: what neighbours share at least, in pixels of `source`.
        ratio: 8 where latents become pixels, 1/8 the other way round.
        multiple: what tiles' places are multiples of: 8 where pixels become latents.
        on_tile: called after each tile; it may raise to stop.
    """
    height, width = source.shape[-2:]
    sums, weights = torch.empty(0), torch.empty(0)
    for top in starts(height, tile, overlap, multiple):
        for left in starts(width, tile, overlap, multiple):
            part = source[..., top : top + tile, left : left + tile]
            result = compute(part).float().cpu()
            if not len(sums):
                size = (round(height * ratio), round(width * ratio))
                sums = torch.zeros(*result.shape[:2], *size)
                weights = torch.zeros(1, 1, *size)
            down, across = round(top * ratio), round(left * ratio)
            rows, columns = result.shape[-2:]
            ramp = round(overlap * ratio)
            weight = _ramp(rows, ramp, down > 0, down + rows < sums.shape[-2])[:, None] * _ramp(
                columns, ramp, across > 0, across + columns < sums.shape[-1]
            )
            place = (..., slice(down, down + rows), slice(across, across + columns))
            sums[place] += result * weight
            weights[place] += weight
            on_tile()
    return sums / weights


def _ramp(length: int, overlap: int, has_before: bool, has_after: bool) -> torch.Tensor:
    """Return weights along one side: up from the edge over `overlap` where there is a neighbour."""
    weight = torch.ones(length)
    rise = (torch.arange(overlap) + 0.5) / max(overlap, 1)
    if has_before:
        weight[:overlap] *= rise
    if has_after:
        weight[length - overlap :] *= rise.flip(0)
    return weight
