"""Brownian paths that do not depend on where they are looked at, for the SDE samplers.

A path is a binary tree over [start, end]: each half's increment follows from the whole's and the
node's own seed. Gives the numbers of torchsde's `BrownianTree`, which k-diffusion and A1111 use
(hence the seeds by NumPy's `SeedSequence` and times rounded to 6 digits), but with the noise drawn
by any source and without keeping more than one query's nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_DIGITS = 6
_POOL_SIZE = 24


@dataclass(frozen=True, slots=True)
class _Node:
    """An interval of the tree: `position` counts from the left within its `depth`."""

    start: float
    end: float
    depth: int
    position: int


class BrownianPath:
    """One path over [start, end], determined by its seed."""

    def __init__(self, start: float, end: float, seed: int, draw: Callable[[int], Tensor]) -> None:
        """Take the ends in rising order and `draw`: normal noise of a seed, always the same."""
        self._seed = seed
        self._draw = draw
        self._root = _Node(round(start, _DIGITS), round(end, _DIGITS), 0, 0)
        words = np.random.SeedSequence(seed, pool_size=_POOL_SIZE).generate_state(3)
        self._whole = draw(int(words[0])) * math.sqrt(end - start)
        self._known: dict[_Node, Tensor] = {}
        self._used: dict[_Node, Tensor] = {}

    def increment(self, start: float, end: float) -> Tensor:
        """Return how far the path goes from `start` to a later `end`, both cut to its own ends."""
        low = round(max(start, self._root.start), _DIGITS)
        high = round(min(end, self._root.end), _DIGITS)
        if low >= high:
            return torch.zeros_like(self._whole)
        pieces = self._pieces(self._root, self._whole, low, high)
        # The next query begins where this one ended, so its nodes are worth keeping; older are not.
        self._known, self._used = self._used, {}
        total = pieces[0]
        for piece in pieces[1:]:
            total = total + piece
        return total

    def _pieces(self, node: _Node, whole: Tensor, low: float, high: float) -> list[Tensor]:
        """Increments of the fewest nodes that make up [low, high], from left to right."""
        if low == node.start and high == node.end:
            return [whole]
        exact = 0.5 * (node.end + node.start)
        middle = round(exact, _DIGITS)
        left = _Node(node.start, middle, node.depth + 1, 2 * node.position)
        right = _Node(middle, node.end, node.depth + 1, 2 * node.position + 1)
        of_left = self._left_increment(node, left, whole)
        pieces = []
        if low < middle:
            pieces += self._pieces(left, of_left, low, min(high, middle))
        if high > middle:
            pieces += self._pieces(right, whole - of_left, max(low, middle), high)
        return pieces

    def _left_increment(self, node: _Node, left: _Node, whole: Tensor) -> Tensor:
        known = self._known.get(left)
        if known is None:
            length = 1 / (node.end - node.start)
            to_left, to_right = left.end - node.start, node.end - left.end
            sequence = np.random.SeedSequence(
                self._seed, spawn_key=(node.position, node.depth), pool_size=_POOL_SIZE
            )
            noise = self._draw(int(sequence.generate_state(4)[0]))
            mean = to_left * whole * length
            known = mean + math.sqrt(to_left * to_right * length) * noise
        self._used[left] = known
        return known


class BrownianNoise:
    """Unit-variance noise for sampler steps: increments of one path per picture, scaled."""

    def __init__(self, paths: Sequence[BrownianPath]) -> None:
        """Take one path per picture, over the sigmas from the smallest positive one up."""
        self._paths = paths

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        """Return noise for a falling step, (batch, channels, height/8, width/8)."""
        increments = torch.stack([path.increment(sigma_next, sigma) for path in self._paths])
        # Sigmas a digit apart may meet when a sampler rounds them.
        if sigma <= sigma_next:
            return increments
        # Paths rise with sigma and samplers fall, hence the sign.
        return increments.mul_(-1 / math.sqrt(sigma - sigma_next))
