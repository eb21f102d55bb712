"""Deep shrink: the map inside is smaller, the result keeps its size, nothing stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.deep_shrink import METHODS, Shrink, resized, shrunk
from tests.models.test_edits import hook_count, make_network


@pytest.fixture(scope="module")
def network() -> Any:
    # Blocks: 0 convolution, 1 and 3 pairs, 2 and 4 downsamplers, 5 the last resnet.
    return make_network((16, 32, 32))


def run(network: Any, height: int = 16, width: int = 24, **more: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, height, width, generator=generator)
    text = torch.randn(2, 5, 8, generator=generator)
    with torch.inference_mode():
        return network(x, torch.tensor([500.0]), text, return_dict=False, **more)[0]


def sizes_of(network: Any, name: str) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []
    part = network.get_submodule(name)
    part.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[-2:])))
    return seen


@pytest.mark.parametrize("after_skip", [True, False])
@pytest.mark.parametrize("block", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(16, 24), (13, 7), (1, 1)])
def test_the_result_has_its_size_whatever_is_shrunk(
    network: Any, block: int, after_skip: bool, size: tuple[int, int]
) -> None:
    plain = run(network, *size)
    shrink = Shrink(block=block, factor=1.7, after_skip=after_skip)
    with shrunk(network, shrink):
        changed = run(network, *size)
        again = run(network, *size)
    assert changed.shape == plain.shape
    assert torch.isfinite(changed).all()
    assert torch.equal(changed, again)
    assert torch.equal(run(network, *size), plain)
    if min(size) > 7:
        assert not torch.allclose(changed, plain)


def test_behind_the_block_the_map_is_smaller_and_the_way_up_full_again() -> None:
    network = make_network((16, 32, 32))
    behind = sizes_of(network, "down_blocks.1.resnets.0")
    middle = sizes_of(network, "mid_block.resnets.0")
    end = sizes_of(network, "conv_out")
    run(network)
    with shrunk(network, Shrink(block=2, factor=2)):
        run(network)
    assert behind == [(8, 12), (4, 6)]
    assert middle == [(4, 6), (2, 3)]
    assert end == [(16, 24), (16, 24)]


@pytest.mark.parametrize(("after_skip", "size"), [(True, (8, 12)), (False, (4, 6))])
def test_the_skip_is_taken_before_or_after(after_skip: bool, size: tuple[int, int]) -> None:
    network = make_network((16, 32, 32))
    seen = sizes_of(network, "up_blocks.1.resnets.1")
    with shrunk(network, Shrink(block=2, factor=2, after_skip=after_skip)):
        run(network)
    assert seen == [size]


def test_a_factor_of_one_is_the_network_itself(network: Any) -> None:
    plain = run(network)
    for after_skip in (True, False):
        with shrunk(network, Shrink(factor=1.0, after_skip=after_skip)):
            assert torch.equal(run(network), plain)


def test_what_a_controlnet_adds_is_fitted(network: Any) -> None:
    sizes = [(16, 24), (16, 24), (8, 12), (8, 12), (4, 6), (4, 6)]
    channels = (16, 16, 16, 32, 32, 32)
    skips = tuple(torch.ones(2, count, *size) for count, size in zip(channels, sizes, strict=True))
    added = {
        "down_block_additional_residuals": skips,
        "mid_block_additional_residual": torch.ones(2, 32, 4, 6),
    }
    for block in (2, 3):
        for after_skip in (True, False):
            with shrunk(network, Shrink(block=block, after_skip=after_skip)):
                plain = run(network)
                steered = run(network, **added)
            assert steered.shape == (2, 4, 16, 24)
            assert not torch.allclose(steered, plain)
    inside = [torch.ones(2, count, *size) for count, size in zip(
        (16, 32, 32), ((16, 24), (8, 12), (4, 6)), strict=True)]  # fmt: skip
    with shrunk(network, Shrink(block=2)):
        adapted = run(network, down_intrablock_additional_residuals=inside)
    assert torch.isfinite(adapted).all()


def test_nothing_stays_after_an_exception(network: Any) -> None:
    hooks = hook_count(network)
    with pytest.raises(RuntimeError), shrunk(network, Shrink()):
        raise RuntimeError("cancelled")
    assert hook_count(network) == hooks
    assert not any("forward" in vars(block) for block in network.up_blocks)


def test_a_block_that_there_is_not_is_named(network: Any) -> None:
    with (
        pytest.raises(UnsupportedCheckpoint, match="no block 9.*1 to 5"),
        shrunk(network, Shrink(block=9)),
    ):
        pass
    with pytest.raises(UnsupportedCheckpoint, match="U-Net"), shrunk(nn.Linear(2, 2), Shrink()):
        pass


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_an_even_map_and_reaches_the_size(method: str) -> None:
    even = torch.full((1, 4, 9, 6), 0.25)
    result = resized(even, (5, 11), method)
    torch.testing.assert_close(result, torch.full((1, 4, 5, 11), 0.25))
    assert resized(even, (9, 6), method) is even


def test_bislerp_turns_directions_and_keeps_lengths() -> None:
    ends = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    middle = resized(ends, (1, 3), "bislerp")[0, :, 0, 1]
    torch.testing.assert_close(middle, torch.full((2,), 0.5**0.5))
    straight = resized(ends, (1, 3), "bilinear")[0, :, 0, 1]
    assert straight.norm() < 0.75
