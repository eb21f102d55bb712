from __future__ import annotations

import math

import pytest
import torch

from sdforge.sampling.philox import PhiloxGenerator, philox_4x32


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_bits_equal_the_known_answers_of_random123(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    a, b, c, d = (torch.tensor([word], dtype=torch.int64) for word in counter)
    assert tuple(word.item() for word in philox_4x32((a, b, c, d), key)) == expected


def test_numbers_equal_those_of_cuda() -> None:
    """`torch.manual_seed(0); torch.randn(8, device="cuda")`, as widely published."""
    expected = [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284]
    assert PhiloxGenerator(0).randn([8]).tolist() == pytest.approx(expected, abs=6e-5)


def test_later_draws_differ_and_go_on_from_the_last() -> None:
    generator, again = PhiloxGenerator(7), PhiloxGenerator(7)
    first, second = generator.randn([4, 8, 8]), generator.randn([4, 8, 8])
    assert not torch.equal(first, second)
    again.randn([1])
    assert torch.equal(again.randn([4, 8, 8]), second)


def randn_in_plain_integers(seed: int, draw: int, index: int) -> float:
    """The same from the paper and cuRAND's header, one number at a time, without torch."""
    mask = 2**32 - 1
    words, key = [draw, 0, index, 0], [seed & mask, seed >> 32]
    for _ in range(10):
        first, third = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [
            (third >> 32) ^ words[1] ^ key[0], third & mask,
            (first >> 32) ^ words[3] ^ key[1], first & mask,
        ]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    radius = math.sqrt(-2 * math.log((words[0] + 0.5) * 2**-32))
    return radius * math.sin((words[1] + 0.5) * 2**-32 * 2 * math.pi)


@pytest.mark.parametrize("seed", [0, 1, 1234, 2**32 - 1, 2**40 + 17])
def test_three_draws_equal_an_independent_generator(seed: int) -> None:
    generator = PhiloxGenerator(seed)
    for draw in range(3):
        expected = [randn_in_plain_integers(seed, draw, index) for index in range(60)]
        assert generator.randn([3, 4, 5]).flatten().tolist() == pytest.approx(expected, abs=2e-6)


def test_seeds_above_32_bits_count_whole() -> None:
    low = PhiloxGenerator(5).randn([16])
    assert not torch.equal(low, PhiloxGenerator(5 + 2**32).randn([16]))


def test_draws_are_normal() -> None:
    noise = PhiloxGenerator(3).randn([200_000])
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert abs(float((noise.abs() < 0.67449).float().mean()) - 0.5) < 0.01
