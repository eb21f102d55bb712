"""Edits of a network: what they change while they hold, and that nothing stays."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.attention import use_direct_attention
from sdforge.models.edits import (
    blind_middle_attention,
    circular_padding,
    merged_tokens,
    middle_self_attentions,
    recorded_middle_attention,
    scaled_decoder,
)

HEIGHT, WIDTH = 8, 12


def make_network(block_out_channels: tuple[int, ...]) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    crossing = len(block_out_channels) - 1
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=block_out_channels,
        layers_per_block=1,
        down_block_types=(*["CrossAttnDownBlock2D"] * crossing, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * crossing),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=8,
    ).eval()
    use_direct_attention(unet)
    return unet


@pytest.fixture(scope="module")
def network() -> Any:
    return make_network((16, 32, 32))


def run(network: Any, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, HEIGHT, WIDTH, generator=generator)
    text = torch.randn(2, 5, 8, generator=generator)
    with torch.inference_mode():
        return network(x, torch.tensor([500.0]), text, return_dict=False)[0]


def hook_count(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


EDITS: dict[str, Callable[[nn.Module], AbstractContextManager[None]]] = {
    "blind": blind_middle_attention,
    "freeu": lambda network: scaled_decoder(network, b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "merged": lambda network: merged_tokens(network, 0.5),
    "recorded": lambda network: recorded_middle_attention(network, []),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_leaves_nothing_behind(network: Any, name: str) -> None:
    before = run(network)
    with EDITS[name](network):
        during = run(network)
        assert hook_count(network) > 0
    assert hook_count(network) == 0
    assert torch.equal(run(network), before)
    assert torch.equal(during, before) == (name == "recorded")


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_leaves_nothing_behind_after_an_exception(network: Any, name: str) -> None:
    with pytest.raises(RuntimeError), EDITS[name](network):
        raise RuntimeError("cancelled")
    assert hook_count(network) == 0


def test_blind_attention_is_what_a_lone_place_sees(network: Any) -> None:
    (attention,) = middle_self_attentions(network)
    states = torch.randn(2, 6, 32)
    with torch.no_grad(), blind_middle_attention(network):
        together = attention(states)
    alone = torch.cat([attention(states[:, place : place + 1]) for place in range(6)], dim=1)
    torch.testing.assert_close(together, alone)


def test_recorded_maps_are_the_ones_that_were_used(network: Any) -> None:
    (attention,) = middle_self_attentions(network)
    states = torch.randn(2, 6, 32)
    found: list[torch.Tensor] = []
    with torch.no_grad(), recorded_middle_attention(network, found):
        output = attention(states)
    (probabilities,) = found
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
    with torch.no_grad():
        value = attention.to_v(states).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        again = attention.to_out[0]((probabilities @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(output, again)


def test_freeu_with_ones_changes_nothing(network: Any) -> None:
    before = run(network)
    with scaled_decoder(network, b1=1.0, b2=1.0, s1=1.0, s2=1.0):
        torch.testing.assert_close(run(network), before, rtol=1e-4, atol=1e-4)


def test_freeu_scales_skips_as_diffusers_does() -> None:
    """Diffusers has the first version, by block: here both count all, and the skips are alike."""
    network = make_network(block_out_channels=(16, 32))
    plain = run(network)
    network.enable_freeu(s1=0.4, s2=0.4, b1=1.0, b2=1.0)
    expected = run(network)
    network.disable_freeu()
    with scaled_decoder(network, b1=1.0, b2=1.0, s1=0.4, s2=0.4):
        result = run(network)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, expected, rtol=1e-2, atol=1e-3)


def test_freeu_strengthens_half_of_the_backbone_where_it_is_strong() -> None:
    network = make_network(block_out_channels=(16, 32))
    seen: list[torch.Tensor] = []
    block = network.up_blocks[0].resnets[0]
    handle = block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    run(network)
    with scaled_decoder(network, b1=1.5, b2=1.0, s1=1.0, s2=1.0):
        # The order of hooks is that of their registration, so this one sees the edited states.
        handle.remove()
        handle = block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        run(network)
    handle.remove()
    plain, edited = (states[:, :32] for states in seen)
    factor = (edited / plain)[:, :16]
    assert factor.min() + 1e-4 >= 1.0 and factor.max() <= 1.5 + 1e-4
    # The strongest place by the mean over channels gets all of it, the weakest nothing.
    mean = plain.mean(1).flatten(1)
    for row, (high, low) in enumerate(zip(mean.argmax(1), mean.argmin(1), strict=True)):
        assert torch.allclose(factor[row].flatten(1)[:, high], torch.tensor(1.5), atol=1e-3)
        assert torch.allclose(factor[row].flatten(1)[:, low], torch.tensor(1.0), atol=1e-3)
    torch.testing.assert_close(edited[:, 16:], plain[:, 16:])


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 0.9])
def test_merging_keeps_the_shape(network: Any, ratio: float) -> None:
    with merged_tokens(network, ratio):
        assert run(network).shape == (2, 4, HEIGHT, WIDTH)


def test_merging_nothing_changes_nothing(network: Any) -> None:
    before = run(network)
    with merged_tokens(network, 0.0):
        torch.testing.assert_close(run(network), before, rtol=1e-4, atol=1e-4)


def test_merging_shortens_only_the_largest_maps(network: Any) -> None:
    places: list[int] = []
    attentions = [m.attn1 for m in network.modules() if hasattr(m, "attn1")]
    with merged_tokens(network, 0.5):
        handles = [
            one.to_q.register_forward_pre_hook(lambda m, inputs: places.append(inputs[0].shape[1]))
            for one in attentions
        ]
        run(network)
        for handle in handles:
            handle.remove()
    full = HEIGHT * WIDTH
    assert places.count(full // 2) == 3
    assert full not in places
    assert set(places) == {full // 2, full // 4, full // 16}


def test_places_that_are_alike_merge_without_loss(network: Any) -> None:
    """Every 2 × 2 square holds one value four times: keys that repeat evenly change no average."""
    attention = next(m.attn1 for m in network.modules() if hasattr(m, "attn1"))
    small = torch.randn(1, HEIGHT // 2, WIDTH // 2, 16)
    states = small.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    with torch.no_grad():
        plain = attention(states)
        with merged_tokens(network, 0.75):
            network._forward_pre_hooks[next(iter(network._forward_pre_hooks))](
                network, (torch.zeros(1, 4, HEIGHT, WIDTH),)
            )
            merged = attention(states)
    torch.testing.assert_close(merged, plain, rtol=1e-4, atol=1e-5)


def test_a_network_of_another_kind_is_refused_with_the_reason() -> None:
    with (
        pytest.raises(UnsupportedCheckpoint, match=r"Linear has no mid_block.*switch it off"),
        blind_middle_attention(nn.Linear(2, 2)),
    ):
        pass


def test_circular_padding_makes_a_network_blind_to_where_the_edge_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 5, padding=2))
    x = torch.randn(1, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    plain = network(x)
    with circular_padding(network):
        tiled = network(x)
        rolled = network(x.roll((5, 3), (2, 3)))
    assert torch.allclose(rolled, tiled.roll((5, 3), (2, 3)), atol=1e-5)
    assert not torch.allclose(tiled, plain)
    assert torch.equal(network(x), plain)


def test_circular_padding_ends_also_after_an_error() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    with pytest.raises(ZeroDivisionError), circular_padding(network):
        raise ZeroDivisionError
    assert network[0].padding_mode == "zeros"
