from __future__ import annotations

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


def test_seeds_above_32_bits_count_whole() -> None:
    low = PhiloxGenerator(5).randn([16])
    assert not torch.equal(low, PhiloxGenerator(5 + 2**32).randn([16]))


def test_draws_are_normal() -> None:
    noise = PhiloxGenerator(3).randn([200_000])
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert abs(float((noise.abs() < 0.67449).float().mean()) - 0.5) < 0.01
