"""The planner and the budget: arithmetic and monotonicity."""

from hypothesis import given
from hypothesis import strategies as st

from sdforge.memory.budget import Budget
from sdforge.memory.plan import ComponentState, MemoryMode, Placement, plan

STATES = st.builds(
    ComponentState,
    key=st.sampled_from("abcdef"),
    role=st.just("role"),
    total_bytes=st.integers(1, 1000),
    is_resident=st.booleans(),
    is_leased=st.booleans(),
    last_used=st.integers(0, 100),
)


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


@given(
    active=STATES,
    others=st.lists(STATES, max_size=5, unique_by=lambda s: s.key),
    room=st.integers(0, 4000),
    mode=st.sampled_from(list(MemoryMode)),
)
def test_plans_keep_leased_components_and_count_rightly(
    active: ComponentState, others: list[ComponentState], room: int, mode: MemoryMode
) -> None:
    others = [state for state in others if state.key != active.key]
    made = plan(active, others, budget(room), mode)
    by_key = {state.key: state for state in (active, *others)}
    resident = [k for k, where in made.placements.items() if where is Placement.RESIDENT]

    assert made.resident_bytes == sum(by_key[key].total_bytes for key in resident)
    assert not any(by_key[key].is_leased for key in made.evict)
    assert active.key in resident
    assert made == plan(active, others, budget(room), mode)
    if not made.fits:
        assert all(by_key[k].is_leased for k in resident if k != active.key)


@given(
    active=STATES,
    others=st.lists(STATES, max_size=5, unique_by=lambda s: s.key),
    room=st.integers(0, 3000),
    more=st.integers(0, 1000),
)
def test_more_room_never_keeps_fewer_bytes(
    active: ComponentState, others: list[ComponentState], room: int, more: int
) -> None:
    others = [state for state in others if state.key != active.key]
    small = plan(active, others, budget(room), MemoryMode.NORMAL)
    large = plan(active, others, budget(room + more), MemoryMode.NORMAL)
    assert large.resident_bytes >= small.resident_bytes
