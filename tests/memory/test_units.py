"""Units: what streams as one piece, and what stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdforge.memory.budget import MIB
from sdforge.memory.component import Component
from sdforge.memory.trace import Trace
from sdforge.memory.units import UnitTree
from tests.memory.networks import NETWORKS, chain, component, tree

shapes = st.recursive(
    st.just([]), lambda inner: st.lists(inner | st.integers(1, 8), max_size=3), max_leaves=8
)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, cap=st.integers(0, 20_000))
def test_units_and_root_hold_every_tensor_once_and_units_keep_to_the_cap(
    shape: list[Any], cap: int
) -> None:
    made = tree(shape).component
    cut = UnitTree(made, cap)
    held = [master.index for unit in cut.units for master in unit.masters]
    assert sorted([*held, *(master.index for master in cut.root)]) == list(range(len(made.masters)))
    for unit in cut.units:
        is_leaf = next(unit.module.children(), None) is None
        assert is_leaf or sum(master.stored_bytes for master in unit.masters) <= cap
        assert not isinstance(unit.module, nn.ModuleList | nn.Sequential)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_unit_of_a_real_network_is_called(name: str) -> None:
    network = NETWORKS[name]()
    cut = UnitTree(network.component, 20_000)
    trace = Trace(cut)
    network()
    trace.close()
    assert cut.is_traced
    called = {unit.index for unit in cut.units if unit.index in cut.order}
    flops = {size.index for size in cut.sizes if size.flops}
    assert called == {unit.index for unit in cut.units}
    assert len(flops) > 0.6 * len(called)
    assert not any(module._forward_hooks for module in network.component.module.modules())


def test_the_order_is_the_one_that_was_seen() -> None:
    network = tree([[], [], []])
    cut = UnitTree(network.component, 1100)
    trace = Trace(cut)
    network()
    network()
    names = [cut.units[index].name for index in cut.order]
    assert names == ["first", "parts.2", "parts.1", "parts.0"]
    trace.close()


def test_small_pieces_stay_on_the_device() -> None:
    module = nn.ModuleDict({"norm": nn.LayerNorm(8), "matrix": nn.Linear(64, 64)})
    cut = UnitTree(component(module), 128 * 64)
    assert [unit.name for unit in cut.units] == ["matrix"]
    assert {master.name for master in cut.root} == {"norm.weight", "norm.bias"}


def test_operations_are_counted_from_shapes() -> None:
    network = chain(3, width=64)
    cut = UnitTree(network.component, 20_000)
    trace = Trace(cut)
    network()
    trace.close()
    assert [size.flops for size in cut.sizes] == [2 * 2 * 64 * 64] * 3


def test_sdxl_and_flux_are_cut_into_hundreds_of_units_of_their_caps() -> None:
    from diffusers import FluxTransformer2DModel, UNet2DConditionModel

    with torch.device("meta"):
        sdxl = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ).half()
        flux = FluxTransformer2DModel(guidance_embeds=True).bfloat16()
    for module, cap, count in ((sdxl, 64, 225), (flux, 128, 421)):
        made = Component(role="denoiser", name="x", fingerprint="x", module=module)
        cut = UnitTree(made)
        assert (cut.cap_bytes, len(cut.units)) == (cap * MIB, count)
        assert max(unit.stored_bytes for unit in cut.units) <= cap * MIB
        assert cut.root_bytes < MIB
