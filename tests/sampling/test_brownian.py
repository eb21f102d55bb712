from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from sdforge.sampling.brownian import BrownianNoise, BrownianPath

SHAPE = (4, 6, 6)
START, END = 0.0292, 14.614643
TIMES = [START, 0.05, 0.31, 0.310001, 1.0, 2.5, 7.77, 14.0, END]


def draw(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def path(seed: int = 1) -> BrownianPath:
    return BrownianPath(START, END, seed, draw)


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1])
def test_increments_equal_torchsdes(seed: int) -> None:
    torchsde = pytest.importorskip("torchsde")
    ours = path(seed)
    theirs = torchsde.BrownianTree(START, torch.zeros(SHAPE), END, entropy=seed)
    for low, high in [*reversed(list(pairwise(TIMES))), (0.1, 9.0), (0.05, 0.31), (START, END)]:
        assert torch.equal(ours.increment(low, high), theirs(low, high))


def test_a_path_does_not_depend_on_where_it_was_looked_at_before() -> None:
    whole = path()
    for low, high in pairwise(TIMES):
        whole.increment(low, high)
    assert torch.equal(whole.increment(0.4, 3.0), path().increment(0.4, 3.0))


def test_increments_of_parts_add_up() -> None:
    parts = sum(path().increment(low, high) for low, high in pairwise(TIMES))
    assert isinstance(parts, torch.Tensor)
    assert torch.allclose(parts, path().increment(START, END), atol=1e-5)


def test_times_beyond_the_ends_are_cut_and_nothing_is_zero() -> None:
    assert torch.equal(path().increment(0.0, 99.0), path().increment(START, END))
    assert torch.equal(path().increment(1.0, 1.0), torch.zeros(SHAPE))


def test_noise_has_unit_variance_and_no_memory() -> None:
    noise = BrownianNoise([path(seed) for seed in range(40)])
    first, second = noise(7.0, 3.0), noise(3.0, 2.5)
    assert first.shape == (40, *SHAPE)
    for sample in (first, second):
        assert abs(float(sample.std()) - 1) < 0.05
    correlation = float((first * second).mean())
    assert abs(correlation) < 4 / math.sqrt(first.numel())


def test_each_picture_has_its_own_path() -> None:
    together = BrownianNoise([path(1), path(2)])(5.0, 4.0)
    assert torch.equal(together[1:], BrownianNoise([path(2)])(5.0, 4.0))
    assert not torch.equal(together[0], together[1])


def test_noise_between_equal_sigmas_is_nothing() -> None:
    assert torch.equal(BrownianNoise([path()])(2.0, 2.0), torch.zeros(1, *SHAPE))
