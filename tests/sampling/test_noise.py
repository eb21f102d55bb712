from __future__ import annotations

import pytest
import torch

from sdforge.core.errors import UnknownName
from sdforge.sampling.noise import SOURCES, ImageNoise, paste_centred, slerp
from sdforge.sampling.philox import PhiloxGenerator

SHAPE = (4, 8, 12)


def cpu_draws(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_equals_single_pictures(source: str) -> None:
    def draws(seeds: list[int]) -> list[torch.Tensor]:
        noise = ImageNoise(seeds=seeds, shape=SHAPE, source=source)
        return [noise.initial(), noise(2.0, 1.0), noise(1.0, 0.5)]

    for together, alone in zip(draws([41, 42, 43]), draws([42]), strict=True):
        assert together.shape == (3, *SHAPE)
        assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("source", ["GPU", "CPU"])
def test_a_seed_gives_torchs_numbers_one_draw_after_the_other(source: str) -> None:
    noise = ImageNoise(seeds=[1234], shape=SHAPE, source=source)
    first, second, third = cpu_draws(1234, SHAPE, SHAPE, SHAPE)
    assert torch.equal(noise.initial()[0], first)
    assert torch.equal(noise(1.0, 0.5)[0], second)
    assert torch.equal(noise(0.5, 0.2)[0], third)


def test_nv_gives_cudas_numbers() -> None:
    noise = ImageNoise(seeds=[1234], shape=SHAPE, source="NV")
    generator = PhiloxGenerator(1234)
    assert torch.equal(noise.initial()[0], generator.randn(SHAPE))
    assert torch.equal(noise(1.0, 0.5)[0], generator.randn(SHAPE))


def test_the_global_generator_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    noise = ImageNoise(seeds=[3], shape=SHAPE, subseeds=[4], subseed_strength=0.5)
    noise.initial()
    noise(1.0, 0.5)
    noise.brownian(0.1, 1.0)(1.0, 0.5)
    assert torch.equal(state, torch.random.get_rng_state())


def test_ensd_changes_all_draws_but_the_first() -> None:
    noise = ImageNoise(seeds=[10], shape=SHAPE, ensd=31337)
    assert torch.equal(noise.initial()[0], cpu_draws(10, SHAPE)[0])
    # The generators begin anew, so the next draw is the first of the other seed.
    assert torch.equal(noise(1.0, 0.5)[0], cpu_draws(10 + 31337, SHAPE)[0])


def test_a_variation_lies_between_seed_and_subseed() -> None:
    (seed_noise,), (subseed_noise,) = cpu_draws(10, SHAPE), cpu_draws(20, SHAPE)

    def at(strength: float) -> torch.Tensor:
        noise = ImageNoise(seeds=[10], shape=SHAPE, subseeds=[20], subseed_strength=strength)
        return noise.initial()[0]

    assert torch.equal(at(0.0), seed_noise)
    assert torch.allclose(at(1.0), subseed_noise, atol=1e-5)
    assert torch.allclose(at(0.3), slerp(0.3, seed_noise, subseed_noise))
    assert (at(0.1) - seed_noise).norm() < (at(0.6) - seed_noise).norm()


def test_a_variation_leaves_the_draws_of_steps_to_the_seed() -> None:
    noise = ImageNoise(seeds=[10], shape=SHAPE, subseeds=[20], subseed_strength=0.4)
    noise.initial()
    assert torch.equal(noise(1.0, 0.5)[0], cpu_draws(10, SHAPE, SHAPE)[1])


def test_slerp_turns_by_equal_angles_along_the_height() -> None:
    low, high = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)
    low[0, 0], high[0, 1] = 1.0, 2.0  # at right angles in every column, of lengths 1 and 2
    half = slerp(0.5, low, high)
    expected = torch.tensor([[0.5**0.5] * 3, [2 * 0.5**0.5] * 3])
    assert torch.allclose(half[0], expected)
    third = slerp(1 / 3, low, high)
    assert torch.allclose(third[0, :, 0], torch.tensor([3**0.5 / 2, 1.0]))


def test_slerp_of_one_direction_mixes_with_a1111s_mistaken_side() -> None:
    low, high = torch.ones(2, 3, 4), torch.full((2, 3, 4), 3.0)
    assert torch.allclose(slerp(0.25, low, high), torch.full((2, 3, 4), 0.25 * 1 + 0.75 * 3))


def test_seed_resize_keeps_the_other_sizes_noise_in_the_middle() -> None:
    noise = ImageNoise(seeds=[9], shape=SHAPE, resize_from=(4, 6))
    result = noise.initial()[0]
    (patch,), (canvas,) = cpu_draws(9, (4, 4, 6)), cpu_draws(9, SHAPE)
    assert torch.equal(result[:, 2:6, 3:9], patch)
    assert torch.equal(result[:, :2], canvas[:, :2])
    assert torch.equal(result[:, :, 9:], canvas[:, :, 9:])
    assert torch.equal(noise(1.0, 0.5)[0], cpu_draws(9, SHAPE, SHAPE)[1])


def test_seed_resize_from_the_same_size_changes_nothing() -> None:
    plain = ImageNoise(seeds=[9], shape=SHAPE).initial()
    assert torch.equal(ImageNoise(seeds=[9], shape=SHAPE, resize_from=(8, 12)).initial(), plain)


def test_seed_resize_with_a_variation_mixes_at_the_other_size() -> None:
    noise = ImageNoise(
        seeds=[9], shape=SHAPE, resize_from=(4, 6), subseeds=[5], subseed_strength=0.5
    )
    (one,), (other,) = cpu_draws(9, (4, 4, 6)), cpu_draws(5, (4, 4, 6))
    assert torch.allclose(noise.initial()[0, :, 2:6, 3:9], slerp(0.5, one, other))


def test_a_larger_patch_is_cropped_and_an_odd_surplus_costs_one_more() -> None:
    patch = torch.arange(13.0).expand(1, 2, 13)
    pasted = paste_centred(patch, torch.full((1, 2, 10), -1.0))
    assert pasted[0, 0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, -1]
    even = paste_centred(patch[:, :, :12], torch.full((1, 2, 10), -1.0))
    assert even[0, 0].tolist() == list(range(1, 11))


@pytest.mark.parametrize("source", SOURCES)
def test_brownian_noise_is_the_pictures_own_and_of_the_source(source: str) -> None:
    def sample(seeds: list[int]) -> torch.Tensor:
        noise = ImageNoise(seeds=seeds, shape=SHAPE, source=source)
        noise.initial()
        return noise.brownian(0.03, 14.6)(5.0, 3.0)

    assert torch.equal(sample([1, 2])[1:], sample([2]))
    assert abs(float(sample(list(range(30))).std()) - 1) < 0.05


def test_brownian_noise_differs_between_cpu_and_nv() -> None:
    cpu, nv = (
        ImageNoise(seeds=[1], shape=SHAPE, source=source).brownian(0.03, 14.6)(5.0, 3.0)
        for source in ("CPU", "NV")
    )
    assert not torch.allclose(cpu, nv)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(UnknownName, match="TPU"):
        ImageNoise(seeds=[1], shape=SHAPE, source="TPU")
