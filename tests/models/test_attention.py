"""Direct attention is diffusers' arithmetic, to the bit."""

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from sdforge.models.attention import DirectAttention, is_plain, use_direct_attention


def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
        norm_num_groups=8,
    ).eval()


@torch.no_grad()
def test_a_network_gives_the_same_bits_with_the_same_weights() -> None:
    network = unet()
    names = list(network.state_dict())
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([300.5]), torch.randn(2, 77, 24)
    wanted = network(x, t, encoder_hidden_states=text).sample
    use_direct_attention(network)

    assert any(isinstance(module, DirectAttention) for module in network.modules())
    assert not any(isinstance(module, Attention) for module in network.modules())
    assert list(network.state_dict()) == names
    assert torch.equal(network(x, t, encoder_hidden_states=text).sample, wanted)


@torch.no_grad()
def test_a_mask_hides_places() -> None:
    torch.manual_seed(0)
    attention = DirectAttention(Attention(query_dim=16, heads=2, dim_head=8))
    states = torch.randn(1, 5, 16)
    mask = torch.zeros(1, 1, 1, 5)
    mask[..., 3:] = -torch.inf
    shown = attention(states[:, :3], states[:, :3])
    assert torch.allclose(attention(states, attention_mask=mask)[:, :3], shown, atol=1e-6)


def test_attention_that_does_more_is_left_alone() -> None:
    assert is_plain(Attention(query_dim=16))
    assert not is_plain(Attention(query_dim=16, norm_num_groups=4))
    assert not is_plain(Attention(query_dim=16, residual_connection=True))
    assert not is_plain(Attention(query_dim=16, qk_norm="layer_norm"))
