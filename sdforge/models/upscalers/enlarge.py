"""Pictures through an upscaler: under a lease, in overlapping tiles, with bounded memory.

A network sees around every pixel, and near a tile's edge it sees nothing: what is that near does
not count. Further in, neighbouring tiles fade into each other. Tiles are put together on the host,
one row of them at a time, so a picture costs its own bytes there and the network one tile's
activations where it computes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.func import functional_call

from sdforge.core.errors import SdforgeError
from sdforge.memory.component import Component
from sdforge.memory.ladder import Rung, weight_rungs
from sdforge.memory.manager import MemoryManager
from sdforge.models.upscalers.loaded import LoadedUpscaler
from sdforge.models.upscalers.networks import activation_numbers, reach
from sdforge.models.upscalers.shapes import UpscalerShape
from sdforge.models.vae_tiles import starts

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
_Values = npt.NDArray[np.float32]
# What is called after each tile with (tiles done, tiles in all); it may raise to stop.
OnTile = Callable[[int, int], None]

# Below this a tile is more border than picture.
SMALLEST_TILE = 32
# Pixels along a tile's edge that do not count. Measured with the shipped upscaler, which reaches 18
# pixels far: a cut changes what lies 8 pixels beside it by up to 14 levels of 255, 16 by 0.4.
MARGIN = 16


@dataclass(frozen=True)
class Tiles:
    """How a picture is cut, in pixels.

    Attributes:
        side: of what is computed at once; 0 for the whole picture.
        overlap: over which neighbours fade into each other.
    """

    side: int = 0
    overlap: int = 0


def tile_bytes(loaded: LoadedUpscaler, height: int, width: int, itemsize: int) -> int:
    """Return the activations of a tile in bytes."""
    return activation_numbers(loaded.shape) * height * width * itemsize


def fitting_tiles(
    loaded: LoadedUpscaler, memory: MemoryManager, asked: Tiles, height: int, width: int
) -> Tiles:
    """Return the tiles asked for, or smaller ones where those would not fit beside the weights.

    Args:
        loaded: the network.
        memory: what there is.
        asked: as the settings have it.
        height: of the picture, in pixels.
        width: of the picture.
    """
    room = memory.budget().physical_bytes - loaded.component.total_bytes
    side = min(asked.side or max(height, width), max(height, width))
    itemsize = _type_of(loaded.component).itemsize
    while side > SMALLEST_TILE and tile_bytes(loaded, side, side, itemsize) > room:
        side = max(side // 2, SMALLEST_TILE)
    return Tiles(side, asked.overlap)


class Enlarging:
    """One picture on its way through one network."""

    def __init__(
        self, loaded: LoadedUpscaler, memory: MemoryManager, asked: Tiles, on_tile: OnTile
    ) -> None:
        """Take what it needs; nothing happens yet."""
        self._loaded = loaded
        self._memory = memory
        self._asked = asked
        self._on_tile = on_tile
        self._tiles = asked
        self._needs_fp32 = False

    @torch.inference_mode()
    def run(self, pixels: Pixels) -> Pixels:
        """Return the picture `shape.scale` times larger.

        Args:
            pixels: uint8 (height, width, 3).

        Raises:
            OutOfMemory: not even the smallest tile fits.
            SdforgeError: the network gives not-a-number.
        """
        height, width = pixels.shape[:2]
        self._tiles = fitting_tiles(self._loaded, self._memory, self._asked, height, width)
        rungs = [*weight_rungs(self._memory), Rung("smaller tiles", self._halve, times=4)]
        return self._memory.ladder.run("upscaler", partial(self._attempt, pixels), rungs)

    def _halve(self) -> str | None:
        if self._tiles.side <= SMALLEST_TILE:
            return None
        side = max(self._tiles.side // 2, SMALLEST_TILE)
        self._tiles = Tiles(side, self._asked.overlap)
        return f"tiles of {side} pixels"

    def _attempt(self, pixels: Pixels) -> Pixels:
        loaded = self._loaded
        grid = _Grid.of(pixels, self._tiles, loaded.shape)
        dtype = torch.float32 if self._needs_fp32 else _type_of(loaded.component)
        working = tile_bytes(loaded, grid.tile_height, grid.tile_width, dtype.itemsize)
        with self._memory.lease(loaded.component, working_bytes=working) as module:
            device = self._memory.compute_device_of(loaded.component)
            compute = self._compute(module, device)
            return _put_together(grid, compute, loaded.shape.scale, self._on_tile)

    def _compute(self, module: nn.Module, device: torch.device) -> Callable[[Pixels], _Values]:
        component = self._loaded.component

        def compute(part: Pixels) -> _Values:
            plain = torch.from_numpy(part).to(device).movedim(-1, 0)[None]
            result = self._forward(module, component, plain)
            if result.isnan().any():
                raise SdforgeError(
                    f"the upscaler {self._loaded.name} gave not-a-number: its file is broken"
                )
            return np.asarray(result[0].movedim(0, -1).cpu().numpy())

        return compute

    def _forward(
        self, module: nn.Module, component: Component, plain: torch.Tensor
    ) -> torch.Tensor:
        dtype = _type_of(component)
        if not self._needs_fp32:
            result: torch.Tensor = module(plain.to(dtype).div_(255)).float()
            if dtype == torch.float32 or not result.isnan().any():
                return result
            log.warning("the upscaler %s overflows in %s; taking float32", component.name, dtype)
            self._needs_fp32 = True
        weights = {
            name: component.read(master, self._memory.device.upload(master.stored)).float()
            for name, master in component.named_masters()
        }
        larger: torch.Tensor = functional_call(module, weights, (plain.float().div_(255),))
        return larger


def _type_of(component: Component) -> torch.dtype:
    return next(iter(component.masters)).stored.dtype


@dataclass(frozen=True, eq=False)
class _Grid:
    """A picture, padded to what the network can take, and where its tiles begin."""

    pixels: Pixels
    height: int
    width: int
    tile_height: int
    tile_width: int
    tops: list[int]
    lefts: list[int]
    margin: int

    @classmethod
    def of(cls, pixels: Pixels, tiles: Tiles, shape: UpscalerShape) -> _Grid:
        """Cut a picture; all tiles have one size, and places are multiples of the squeeze."""
        multiple = shape.squeeze
        height, width = pixels.shape[:2]
        padding = ((0, -height % multiple), (0, -width % multiple), (0, 0))
        padded = np.pad(pixels, padding, mode="edge")
        largest = tiles.side or max(padded.shape)
        margin = min(reach(shape), MARGIN, largest // 4)
        shared = math.ceil((min(tiles.overlap, largest // 4) + 2 * margin) / multiple) * multiple
        sides = [_even_side(length, largest, shared, multiple) for length in padded.shape[:2]]
        places = [
            starts(length, side, shared, multiple)
            for length, side in zip(padded.shape[:2], sides, strict=True)
        ]
        return cls(padded, height, width, sides[0], sides[1], places[0], places[1], margin)

    def shares(self, scale: int) -> tuple[list[_Values], list[_Values]]:
        """Return how much each row and column of tiles counts along the sides of the result."""
        margin = self.margin * scale
        return (
            _shares([top * scale for top in self.tops], self.tile_height * scale, margin),
            _shares([left * scale for left in self.lefts], self.tile_width * scale, margin),
        )


def _even_side(length: int, largest: int, shared: int, multiple: int) -> int:
    """Return the smallest side of as many tiles as it takes: full ones would share too much."""
    side = max(largest // multiple * multiple, shared + multiple)
    if side >= length:
        return length
    count = math.ceil((length - shared) / (side - shared))
    return math.ceil((length + (count - 1) * shared) / count / multiple) * multiple


def _put_together(
    grid: _Grid, compute: Callable[[Pixels], _Values], scale: int, on_tile: OnTile
) -> Pixels:
    """Return the larger picture; rows of tiles are finished one after another."""
    result = np.empty((grid.pixels.shape[0] * scale, grid.pixels.shape[1] * scale, 3), np.uint8)
    total, done = len(grid.tops) * len(grid.lefts), 0
    down, across = grid.shares(scale)
    # What the row above left for the rows that both share.
    open_rows = np.zeros((0, result.shape[1], 3), np.float32)
    for number, top in enumerate(grid.tops):
        band = np.zeros((grid.tile_height * scale, result.shape[1], 3), np.float32)
        for left, share in zip(grid.lefts, across, strict=True):
            part = grid.pixels[top : top + grid.tile_height, left : left + grid.tile_width]
            piece = compute(np.ascontiguousarray(part))
            begin = left * scale
            band[:, begin : begin + piece.shape[1]] += piece * share[None, :, None]
            # Not beside the next one: it may lie where the network computes.
            del piece
            done += 1
            on_tile(done, total)
        band *= down[number][:, None, None]
        band[: len(open_rows)] += open_rows
        is_last = number + 1 == len(grid.tops)
        closed = len(band) if is_last else (grid.tops[number + 1] - top) * scale
        result[top * scale : top * scale + closed] = _to_bytes(band[:closed])
        open_rows = band[closed:].copy()
    return result[: grid.height * scale, : grid.width * scale]


def _to_bytes(values: _Values) -> Pixels:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _shares(places: list[int], side: int, margin: int) -> list[_Values]:
    """Return how much each tile counts along one side; all together 1 everywhere.

    Weights rise behind the margin over what a tile shares with the one before, and fall towards the
    next.
    """
    length = places[-1] + side
    total = np.zeros(length, np.float32)
    ramps = []
    for number, place in enumerate(places):
        ramp = np.ones(side, np.float32)
        if number:
            shared = places[number - 1] + side - place
            ramp[:shared] *= _rise(shared, margin)
        if number + 1 < len(places):
            shared = place + side - places[number + 1]
            ramp[side - shared :] *= _rise(shared, margin)[::-1]
        ramps.append(ramp)
        total[place : place + side] += ramp
    return [ramp / total[place : place + side] for place, ramp in zip(places, ramps, strict=True)]


def _rise(shared: int, margin: int) -> _Values:
    """Return weights from 0 to 1 over what two tiles share, but for a margin at either end."""
    open_length = max(shared - 2 * margin, 1)
    return np.asarray(((np.arange(shared) - margin + 0.5) / open_length).clip(0, 1), np.float32)
