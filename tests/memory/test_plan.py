"""The planner and the budget: tables, arithmetic and monotonicity."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.memory.budget import MIB, Budget
from sdforge.memory.interleave import UnitSize, stream_order
from sdforge.memory.placement import (
    ComponentState,
    Placement,
    PlanError,
    ResidencyPlan,
    VaeOption,
    Work,
)
from sdforge.memory.plan import plan
from sdforge.memory.policy import MemoryMode, Policy, policy_for
from sdforge.memory.vae_mode import SLICED, VaeMode


def state(
    key: str,
    units: list[int],
    *,
    root: int = 0,
    is_resident: bool = False,
    is_leased: bool = False,
    last_used: int = 0,
) -> ComponentState:
    sizes = tuple(
        UnitSize(index=index, name=str(index), bytes=size, flops=index + 1)
        for index, size in enumerate(units)
    )
    return ComponentState(
        key=key,
        role="role",
        total_bytes=root + sum(units),
        root_bytes=root,
        units=sizes,
        stream_order=stream_order(sizes),
        resident=frozenset(range(len(units))) if is_resident else frozenset(),
        is_resident=is_resident,
        is_leased=is_resident and is_leased,
        last_used=last_used,
    )


STATES = st.builds(
    state,
    key=st.sampled_from("abcdef"),
    units=st.lists(st.integers(1, 100), max_size=12),
    root=st.integers(1, 50),
    is_resident=st.booleans(),
    is_leased=st.booleans(),
    last_used=st.integers(0, 100),
)
OTHERS = st.lists(STATES, max_size=5, unique_by=lambda s: s.key)
MODES = st.sampled_from(list(MemoryMode))


def planned(
    active: ComponentState,
    others: list[ComponentState],
    room: int,
    mode: MemoryMode = MemoryMode.NORMAL,
    work: Work | None = None,
) -> ResidencyPlan | None:
    """Plan on a device of `room` bytes, all for weights; None where nothing can do."""
    try:
        return plan(active, others, budget(room), policy_for(mode), work)
    except PlanError:
        return None


def budget(weights: int) -> Budget:
    return Budget(total_bytes=weights, inference_bytes=0)


def test_the_budget_is_total_minus_inference_memory() -> None:
    assert Budget(total_bytes=12288, inference_bytes=4096).weights_bytes == 8192


def test_working_bytes_reserve_and_other_programs_lower_the_budget_only_beyond_the_contract() -> (
    None
):
    made = Budget(
        total_bytes=1000,
        inference_bytes=300,
        working_bytes=200,
        reserve_bytes=50,
        foreign_bytes=100,
    )
    assert made.weights_bytes == 650
    assert Budget(total_bytes=1000, inference_bytes=300, working_bytes=100).weights_bytes == 700


def test_an_absurd_setting_gives_zero_and_not_a_negative_budget() -> None:
    assert Budget(total_bytes=100, inference_bytes=200).weights_bytes == 0


@given(active=STATES, others=OTHERS, room=st.integers(0, 4000), mode=MODES)
def test_plans_keep_leased_components_and_count_rightly(
    active: ComponentState, others: list[ComponentState], room: int, mode: MemoryMode
) -> None:
    others = [other for other in others if other.key != active.key]
    made = planned(active, others, room, mode)
    if made is None:
        leased = sum(other.held_bytes for other in others if other.is_leased)
        assert active.floor_bytes + leased > room
        return
    by_key = {known.key: known for known in (active, *others)}
    counted = sum(by_key[key].bytes_with(units) for key, units in made.resident.items())

    assert made.resident_bytes == counted
    assert made.streamed_bytes + made.own_bytes >= active.total_bytes
    assert all(other.key in made.resident for other in others if other.is_leased)
    assert all(made.resident[k] <= by_key[k].resident for k in made.resident if k != active.key)
    assert made == planned(active, others, room, mode)
    assert made.fits


@given(
    active=STATES,
    others=OTHERS,
    room=st.integers(0, 3000),
    more=st.integers(0, 1000),
    mode=MODES,
    working=st.integers(0, 500),
)
def test_more_room_never_keeps_less_and_a_larger_picture_never_keeps_more(
    active: ComponentState,
    others: list[ComponentState],
    room: int,
    more: int,
    mode: MemoryMode,
    working: int,
) -> None:
    others = [other for other in others if other.key != active.key]
    small = planned(active, others, room, mode, Work(working_bytes=working))
    large = planned(active, others, room + more, mode, Work(working_bytes=working))
    if small is None:
        return
    assert large is not None
    assert large.resident[active.key] >= small.resident[active.key]
    assert large.streamed_bytes <= small.streamed_bytes
    bigger = planned(active, others, room, mode, Work(working_bytes=working + more))
    assert bigger is not None
    assert bigger.resident[active.key] <= small.resident[active.key]


SDXL = state("denoiser", [40 * MIB] * 120, root=2 * MIB)
TEXT = state("text", [30 * MIB] * 50, root=MIB)
VAE = state("vae", [20 * MIB] * 8, root=MIB)


@pytest.mark.parametrize(
    ("mode", "gigabytes", "placement", "one_batch"),
    [
        (MemoryMode.NORMAL, 12, Placement.RESIDENT, True),
        (MemoryMode.NORMAL, 6, Placement.RESIDENT, False),
        (MemoryMode.NORMAL, 4, Placement.PARTIAL, True),
        (MemoryMode.MEDVRAM, 8, Placement.RESIDENT, True),
        (MemoryMode.MEDVRAM, 4, Placement.PARTIAL, True),
        (MemoryMode.LOWVRAM, 12, Placement.STREAM, True),
        (MemoryMode.LOWVRAM, 2, Placement.STREAM, True),
        (MemoryMode.LOWVRAM, 1.4, Placement.STREAM, False),
        (MemoryMode.NOVRAM, 12, Placement.STREAM, False),
        (MemoryMode.HIGHVRAM, 6, Placement.RESIDENT, True),
    ],
)
def test_modes_place_an_sdxl_denoiser_as_the_table_in_the_docs_says(
    mode: MemoryMode, gigabytes: float, placement: Placement, one_batch: bool
) -> None:
    total = int(gigabytes * 1024) * MIB
    work = Work(working_bytes=1400 * MIB, split_bytes=700 * MIB)
    made = plan(
        SDXL,
        [],
        Budget(total_bytes=total, inference_bytes=min(512 * MIB, total // 8)),
        policy_for(mode),
        work,
    )
    assert (made.placement, made.cond_batching) == (placement, one_batch), made.describe()
    assert made.predicted_peak <= total or mode is MemoryMode.HIGHVRAM


def test_the_ring_has_three_of_the_largest_unit_and_one_where_nothing_may_be_spent() -> None:
    for mode, units in ((MemoryMode.LOWVRAM, 3), (MemoryMode.NOVRAM, 1)):
        made = planned(SDXL, [], 10_000 * MIB, mode)
        assert made is not None
        assert made.ring_bytes == units * 40 * MIB


def test_medvram_keeps_one_component_and_normal_keeps_what_fits() -> None:
    text = replace(TEXT, resident=frozenset(range(50)), is_resident=True)
    for mode, stays in ((MemoryMode.MEDVRAM, False), (MemoryMode.NORMAL, True)):
        made = planned(VAE, [text], 4000 * MIB, mode)
        assert made is not None
        assert (text.key in made.resident) is stays


def test_room_is_made_by_taking_only_as_many_units_as_it_needs() -> None:
    denoiser = replace(SDXL, resident=frozenset(range(120)), is_resident=True)
    made = planned(VAE, [denoiser], 4900 * MIB)
    assert made is not None
    assert made.placements["denoiser"] is Placement.PARTIAL
    freed = denoiser.held_bytes - denoiser.bytes_with(made.resident["denoiser"])
    assert 0 < freed - (denoiser.held_bytes + VAE.total_bytes - 4900 * MIB) < 40 * MIB


def test_a_placement_that_is_nearly_as_good_is_left_alone() -> None:
    first = planned(SDXL, [], 3000 * MIB)
    assert first is not None
    there = replace(SDXL, resident=first.resident["denoiser"], is_resident=True)
    again = planned(there, [], 3050 * MIB)
    assert again is not None
    assert again.resident["denoiser"] == there.resident
    anew = planned(replace(there, is_settled=False), [], 3050 * MIB)
    assert anew is not None
    assert anew.resident["denoiser"] > there.resident


def test_the_vae_works_in_the_largest_pieces_that_fit() -> None:
    options = (
        VaeOption(mode=SLICED, working_bytes=6000 * MIB),
        VaeOption(mode=VaeMode.tiled(96), working_bytes=3400 * MIB),
        VaeOption(mode=VaeMode.tiled(64), working_bytes=1500 * MIB),
        VaeOption(mode=VaeMode.tiled(32), working_bytes=400 * MIB),
    )
    work = Work(vae_options=options)

    def mode(total: int, policy: Policy) -> VaeMode:
        made = plan(VAE, [], Budget(total_bytes=total * MIB, inference_bytes=0), policy, work)
        return made.vae_mode

    normal = policy_for(MemoryMode.NORMAL)
    assert mode(8000, normal) == SLICED
    assert mode(4000, normal) == VaeMode.tiled(96)
    assert mode(2000, normal) == VaeMode.tiled(64)
    assert mode(300, normal) == VaeMode.tiled(32)
    assert mode(8000, policy_for(MemoryMode.NOVRAM)) == VaeMode.tiled(96)
    assert mode(8000, replace(normal, vae_skip=2)) == VaeMode.tiled(64)
    assert mode(8000, replace(normal, vae_skip=9)) == VaeMode.tiled(32)


def test_roles_that_compute_on_the_host_take_nothing_of_the_device() -> None:
    policy = policy_for(MemoryMode.NORMAL, cpu_roles=frozenset({"role"}))
    text = replace(TEXT, resident=frozenset(range(50)), is_resident=True)
    made = plan(VAE, [text], Budget(total_bytes=0, inference_bytes=0), policy)
    assert made.placement is Placement.CPU
    assert (made.evict, made.resident) == ((), {"text": text.resident})


def test_what_can_never_fit_is_refused_with_what_would_help() -> None:
    with pytest.raises(PlanError, match="at the least") as caught:
        plan(SDXL, [], budget(30 * MIB))
    assert "--always-cpu" in str(caught.value)
    policy = policy_for(MemoryMode.NORMAL, can_stream=False)
    with pytest.raises(PlanError) as caught:
        plan(SDXL, [], budget(1000 * MIB), policy)
    assert "streams" in caught.value.alternatives[0]


def test_a_plan_says_what_it_does_and_how_it_differs() -> None:
    large, small = planned(SDXL, [], 9000 * MIB), planned(SDXL, [], 3000 * MIB)
    assert large is not None
    assert small is not None
    assert "denoiser partial" in small.describe()
    assert "streamed through a ring of 120" in small.describe()
    assert small.difference(large).startswith("placement resident → partial, resident MiB 4802 →")
    assert small.difference(small) == "nothing changed"


def denoiser(units: dict[str, int]) -> ComponentState:
    sizes = tuple(
        UnitSize(index=index, name=name, bytes=size, flops=1)
        for index, (name, size) in enumerate(units.items())
    )
    return ComponentState(
        key="denoiser", role="denoiser", total_bytes=1 + sum(units.values()), root_bytes=1,
        units=sizes, stream_order=stream_order(sizes),
    )  # fmt: skip


BLOCKS = {"down_blocks.0": 10, "down_blocks.1": 10, "mid_block": 20, "up_blocks.0": 10}


@pytest.mark.parametrize(
    ("layers", "streaming"),
    [
        (("down_blocks",), {0, 1}),
        (("mid_block", "up_blocks.0"), {2, 3}),
        (("mid",), set()),  # names are whole
        ((), set()),
    ],
)
def test_parts_that_a_setting_names_never_stay_and_all_else_does(
    layers: tuple[str, ...], streaming: set[int]
) -> None:
    policy = replace(policy_for(MemoryMode.NORMAL), offload_layers=layers)
    made = plan(denoiser(BLOCKS), [], budget(1000), policy)
    assert made.resident["denoiser"] == set(range(4)) - streaming
    assert made.streamed_bytes == sum(list(BLOCKS.values())[index] for index in streaming)
    for name in layers:
        assert name in made.describe()
    others = plan(state("vae", [5, 5]), [], budget(1000), policy)
    assert others.placement is Placement.RESIDENT


@given(room=st.integers(0, 200), named=st.sets(st.sampled_from(sorted(BLOCKS))))
def test_named_parts_stream_first_and_what_else_has_to_follows(room: int, named: set[str]) -> None:
    policy = replace(policy_for(MemoryMode.NORMAL), offload_layers=tuple(named))
    free = planned(denoiser(BLOCKS), [], room)
    if free is None:
        return
    made = plan(denoiser(BLOCKS), [], budget(room), policy)
    told = {index for index, name in enumerate(BLOCKS) if name in named}
    assert not made.resident["denoiser"] & told
    assert made.fits == free.fits
    assert made.fits or not made.resident["denoiser"]
    # What lies there already and was named afterwards leaves.
    lying = replace(denoiser(BLOCKS), resident=made.resident["denoiser"] | told, is_resident=True)
    assert not plan(lying, [], budget(room), policy).resident["denoiser"] & told
