"""What would fit instead: the largest size, other modes, smaller batches. Pure, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sdforge.memory.estimate import Estimate, Factor, ModelSizes, Room, Shape, estimate

_LARGEST_SIDE = 8192
SIZE_STEP = 64


def recommend_size(
    model: ModelSizes, shape: Shape, room: Room, mode: str, factor: Factor
) -> Shape | None:
    """Return the largest size of the same proportions that fits, in steps of 64 pixels.

    None when not even the smallest does.
    """

    def scaled(steps: int) -> Shape:
        return _scaled(shape, steps)

    def fits(steps: int) -> bool:
        return estimate(model, scaled(steps), room, mode, factor).fits

    if not fits(1):
        return None
    low, high = 1, _LARGEST_SIDE // SIZE_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return scaled(low)


def _scaled(shape: Shape, steps: int) -> Shape:
    """Return the shape with a longer side of `steps` · 64 pixels, the other rounded down."""
    longer = max(shape.width, shape.height)
    sides = [max(side * steps // longer, 1) * SIZE_STEP for side in (shape.width, shape.height)]
    return replace(shape, width=sides[0], height=sides[1])


def alternatives(
    model: ModelSizes,
    shape: Shape,
    room: Room,
    factor: Factor,
    modes: Sequence[str] = ("normal", "medvram", "lowvram"),
) -> list[tuple[str, Shape, Estimate]]:
    """Return what would fit instead: the same picture in other modes, then one picture at a time.

    Each entry is (mode, shape, estimate); none is returned that does not fit.
    """
    tried = [(mode, shape) for mode in modes]
    if shape.batch > 1:
        tried += [(mode, replace(shape, batch=1)) for mode in modes]
    found = [(mode, other, estimate(model, other, room, mode, factor)) for mode, other in tried]
    return [entry for entry in found if entry[2].fits]
