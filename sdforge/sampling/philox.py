"""CUDA's normal random numbers on any device: Philox 4x32-10 and Box–Muller.

Gives what `torch.randn(..., device="cuda")` gives after `manual_seed`, as long as the card runs as
many threads at once as there are numbers (196,608 on an RTX 4090); beyond that a real card's depend
on its size, while these go on as A1111's do. Philox: Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3"; which of its words CUDA uses for what is public in cuRAND's headers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_SCALE = 2.0**-32
# cuRAND's constant, 2π in single precision.
_ANGLE_SCALE = float(torch.tensor(2 * math.pi, dtype=torch.float32)) * _SCALE


class PhiloxGenerator:
    """A seeded source of normal numbers; each call to `randn` goes on where the last one ended."""

    def __init__(self, seed: int) -> None:
        """Start from any seed that `torch.manual_seed` takes."""
        self._key = (seed & _WORD, (seed >> 32) & _WORD)
        self._calls = 0

    def randn(self, shape: Sequence[int]) -> Tensor:
        """Return a float32 tensor on the CPU."""
        count = math.prod(shape)
        threads = torch.arange(count, dtype=torch.int64)
        zeros = torch.zeros_like(threads)
        counter = (zeros + self._calls, zeros, threads, zeros)
        self._calls += 1
        first, second, _, _ = philox_4x32(counter, self._key)
        # Half a unit is added so that the logarithm's argument is never 0.
        radius = (-2 * torch.log(first * _SCALE + _SCALE / 2)).sqrt()
        angle = second * _ANGLE_SCALE + _ANGLE_SCALE / 2
        return (radius * torch.sin(angle)).to(torch.float32).reshape(tuple(shape))


def philox_4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four words of 32 random bits for every counter, as int64 tensors like `counter`."""
    a, b, c, d = counter
    key_low, key_high = key
    for _ in range(_ROUNDS):
        high_a, low_a = _product(a, _MULTIPLIERS[0])
        high_c, low_c = _product(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ key_low, low_c, high_a ^ d ^ key_high, low_a
        key_low, key_high = (key_low + _KEY_STEPS[0]) & _WORD, (key_high + _KEY_STEPS[1]) & _WORD
    return a, b, c, d


def _product(words: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """Return the high and low words of products of 32-bit words."""
    # The product wraps around in 64 bits with a sign; its bits are right all the same.
    product = words * multiplier
    return (product >> 32) & _WORD, product & _WORD
