"""What would fit instead: the largest size, other modes, smaller batches. Pure, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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
        return scaled_shape(shape, steps)

    def fits(steps: int) -> bool:
        return estimate(model, scaled(steps), room, mode, factor).fits

    if not fits(1):
        return None
    low, high = 1, _LARGEST_SIDE // SIZE_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return scaled(low)


def scaled_shape(shape: Shape, steps: int) -> Shape:
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


@dataclass(frozen=True)
class Leg:
    """A part of a job with a checkpoint of its own: all parts have to fit, one after another."""

    name: str
    checkpoint: str
    model: ModelSizes
    shape: Shape


def largest_asked(legs: Sequence[Leg], room: Room, mode: str, factor: Factor) -> Shape | None:
    """Return the largest size for the last leg at which all fit, those before it in proportion.

    None where one does not fit at any.
    """
    asked = legs[-1].shape
    if len(legs) == 1:
        return recommend_size(legs[0].model, asked, room, mode, factor)
    longer = max(asked.width, asked.height)
    steps = _LARGEST_SIDE // SIZE_STEP
    for leg in legs:
        found = recommend_size(leg.model, leg.shape, room, mode, factor)
        if found is None:
            return None
        share = max(found.width, found.height) / max(leg.shape.width, leg.shape.height)
        steps = min(steps, int(share * longer) // SIZE_STEP)
    return scaled_shape(asked, steps) if steps else None


def other_ways(legs: Sequence[Leg], room: Room, factor: Factor) -> list[dict[str, Any]]:
    """Return modes, batches and sizes of the last leg with which all legs fit, as JSON types."""
    asked = legs[-1].shape
    found = []
    for mode, other, result in alternatives(legs[-1].model, asked, room, factor):
        rest = [replace(leg.shape, batch=other.batch) for leg in legs[:-1]]
        peaks = [
            estimate(leg.model, shape, room, mode, factor)
            for leg, shape in zip(legs, rest, strict=False)
        ]
        if all(peak.fits for peak in peaks):
            found.append(_way(mode, other, [result, *peaks]))
    for mode in ("normal", "medvram", "lowvram"):
        single = [replace(leg, shape=replace(leg.shape, batch=1)) for leg in legs]
        largest = largest_asked(single, room, mode, factor)
        if largest is not None:
            share = max(largest.width, largest.height) / max(asked.width, asked.height)
            results = [
                estimate(leg.model, _shared(leg.shape, share), room, mode, factor)
                for leg in single[:-1]
            ]
            results.append(estimate(single[-1].model, largest, room, mode, factor))
            found.append(_way(mode, largest, results))
    return found


def _shared(shape: Shape, share: float) -> Shape:
    width, height = (max(int(side * share), 8) for side in (shape.width, shape.height))
    return replace(shape, width=width, height=height)


def _way(mode: str, shape: Shape, results: Sequence[Estimate]) -> dict[str, Any]:
    return {
        "mode": mode,
        "width": shape.width,
        "height": shape.height,
        "batch_size": shape.batch,
        "peak_bytes": max(result.peak_bytes for result in results),
    }
