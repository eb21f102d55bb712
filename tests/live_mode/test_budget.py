"""The latency budget: what fits is taken, and small changes of speed change nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sdforge.core.frame import FULL, LINEAR, SMALL
from sdforge.live.budget import Costs, Quality, choose, qualities

POSSIBLE = qualities([(512, 512), (384, 384), (256, 256)], [4, 3, 2, 1], [FULL, SMALL])
seconds = st.floats(1e-9, 1e-4)


def measured(step: float, full: float, small: float, fixed: float = 0.0) -> Costs:
    """Return costs of a machine that needs so many seconds a pixel; every decoder was tried."""
    costs = Costs()
    for decoder, each in ((FULL, full), (SMALL, small)):
        for _ in range(3):
            one = Quality(512, 512, 1, decoder)
            timings = {"denoise": step * one.pixels, "decode": each * one.pixels, "encode": fixed}
            costs.add(one, timings, vae_width=128)
    return costs


@given(step=seconds, full=seconds, small=seconds, budget=st.floats(0.01, 60))
def test_the_best_that_fits_is_taken_and_else_the_quickest(
    step: float, full: float, small: float, budget: float
) -> None:
    costs = measured(step, full, small)
    chosen = choose(POSSIBLE, costs, budget)
    fitting = [one for one in POSSIBLE if costs.predicted(one) <= budget]
    if fitting:
        assert chosen == fitting[0]
    else:
        assert costs.predicted(chosen) == min(map(costs.predicted, POSSIBLE))


@given(step=seconds, full=seconds, small=seconds, budget=st.floats(0.01, 60), more=st.floats(1, 9))
def test_more_time_never_makes_a_frame_worse(
    step: float, full: float, small: float, budget: float, more: float
) -> None:
    costs = measured(step, full, small)
    some, other = choose(POSSIBLE, costs, budget), choose(POSSIBLE, costs, budget * more)
    if costs.predicted(some) <= budget:
        assert POSSIBLE.index(other) <= POSSIBLE.index(some)


@given(step=seconds, full=seconds, small=seconds, budget=st.floats(0.01, 60), start=st.integers(0))
def test_at_a_steady_speed_the_quality_settles(
    step: float, full: float, small: float, budget: float, start: int
) -> None:
    costs = measured(step, full, small)
    current = POSSIBLE[start % len(POSSIBLE)]
    seen = []
    for _ in range(len(POSSIBLE) + 2):
        current = choose(POSSIBLE, costs, budget, current)
        seen.append(current)
    assert seen[-1] == seen[-2]


def test_a_little_late_changes_nothing_and_a_little_early_neither() -> None:
    step, small = 1e-6, 0.2e-6
    now = Quality(512, 512, 2, SMALL)
    took = measured(step, 18 * small, small).predicted(now)
    assert choose(POSSIBLE, measured(step, 18 * small, small), took / 1.05, now) == now
    assert choose(POSSIBLE, measured(step, 18 * small, small), took * 1.15, now) == now


def test_before_the_first_frame_the_quickest_of_the_largest_size_is_taken() -> None:
    assert choose(POSSIBLE, Costs(), 0.1) == Quality(512, 512, 1, SMALL)


def test_the_first_frame_counts_until_there_is_a_second() -> None:
    costs, one = Costs(), Quality(512, 512, 1, SMALL)
    costs.add(one, {"denoise": 30.0, "decode": 10.0}, vae_width=128)
    assert costs.predicted(one) == 40.0
    costs.add(one, {"denoise": 0.3, "decode": 0.1}, vae_width=128)
    assert abs(costs.predicted(one) - 0.4) < 1e-9


def test_one_frame_that_shared_the_processor_changes_nothing() -> None:
    costs, one = Costs(), Quality(512, 512, 1, SMALL)
    for denoise in (0.3, 0.3, 0.3, 0.3, 9.0):
        costs.add(one, {"denoise": denoise}, vae_width=128)
    assert abs(costs.predicted(one) - 0.3) < 1e-9


def test_a_decoder_that_never_ran_is_judged_by_the_other_and_the_vaes_width() -> None:
    costs, one = Costs(), Quality(512, 512, 1, SMALL)
    costs.add(one, {"decode": 0.1}, vae_width=128)
    assert abs(costs.predicted(Quality(512, 512, 1, FULL)) - 1.8) < 1e-9
    costs.add(one, {"decode": 0.1}, vae_width=32)
    assert abs(costs.predicted(Quality(512, 512, 1, FULL)) - 0.25) < 1e-9
    assert costs.predicted(Quality(512, 512, 1, LINEAR)) == 0.0
