"""The order in which waiting jobs run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sdforge.engine.line import Place, in_order, last_rank, moved


def line(*priorities: int) -> dict[str, Place]:
    return {
        f"j{number}": Place(priority=priority, rank=float(number))
        for number, priority in enumerate(priorities)
    }


def test_a_higher_priority_runs_first_and_equals_in_the_order_they_came() -> None:
    assert in_order(line(0, 5, 0, 5, -1)) == ["j1", "j3", "j0", "j2", "j4"]
    assert last_rank(line(0, 0)) == 2.0
    assert last_rank({}) == 1.0


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(-2, 12)), max_size=30),
)
def test_a_moved_job_stands_where_it_was_put_and_the_others_keep_their_order(
    priorities: list[int], moves: list[tuple[int, int]]
) -> None:
    places = line(*priorities)
    for which, index in moves:
        name = f"j{which % len(priorities)}"
        others = [other for other in in_order(places) if other != name]
        places |= moved(places, name, index)
        order = in_order(places)
        assert [other for other in order if other != name] == others
        assert order.index(name) == min(max(index, 0), len(others))
        keys = [place.sort_key for place in places.values()]
        assert len(set(keys)) == len(keys)


def test_moving_between_the_same_two_for_ever_never_runs_out_of_numbers() -> None:
    places = line(0, 0, 0)
    for _ in range(200):
        last = in_order(places)[-1]
        places |= moved(places, last, 1)
        assert in_order(places)[1] == last
