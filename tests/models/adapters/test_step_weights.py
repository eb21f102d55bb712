"""Weights over steps: both spellings, where they begin and end, and what lies between."""

import pytest

from sdforge.models.adapters.network_use import NetworkUse
from sdforge.models.adapters.step_weights import (
    Moment,
    StepWeights,
    parse_moment,
    parse_points,
    parse_range,
)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("5-10", [0] * 5 + [1] * 5 + [0] * 10),
        ("0-10", [1] * 10 + [0] * 10),
        ("-3", [1] * 3 + [0] * 17),
        ("18-", [0] * 18 + [1] * 2),
        ("0.25-0.5", [0] * 5 + [1] * 5 + [0] * 10),
    ],
)
def test_a_range_is_on_from_its_start_until_its_stop(text: str, weights: list[int]) -> None:
    found = parse_range(text)
    assert found is not None
    over = StepWeights(start=found[0], stop=found[1])
    assert [over.at(step, 20) for step in range(20)] == weights


def test_points_are_joined_by_straight_lines_and_kept_beyond_the_ends() -> None:
    points = parse_points("0@2, 1@4; 0.5@8")
    assert points is not None
    over = StepWeights(points=points)
    assert [over.at(step, 20) for step in (0, 2, 3, 4, 6, 8, 19)] == [0, 0, 0.5, 1, 0.75, 0.5, 0.5]


def test_times_up_to_1_are_shares() -> None:
    points = parse_points("1@0,0.5@0.5,0~1")
    assert points is not None
    over = StepWeights(points=points)
    assert [over.at(step, 20) for step in (0, 5, 10, 15, 20)] == [1, 0.75, 0.5, 0.25, 0]
    assert parse_points("0.7") == ((Moment(1.0, is_share=True), 0.7),)


@pytest.mark.parametrize("text", ["", "5", "a-b", "1-2-3", "-", "0..1-2"])
def test_what_is_no_range_is_none(text: str) -> None:
    assert parse_range(text) is None


@pytest.mark.parametrize("text", ["x@1", "1@", "@", "1@nan", "inf@1", "1@-1"])
def test_what_are_no_points_is_none(text: str) -> None:
    assert parse_points(text) is None


def test_whole_numbers_are_steps_and_others_shares() -> None:
    assert parse_moment("10") == Moment(10.0, is_share=False)
    assert parse_moment("0.5") == Moment(0.5, is_share=True)
    assert parse_moment("-1") is None


def test_the_denoisers_weight_changes_and_the_text_encoders_does_not() -> None:
    over = StepWeights(stop=Moment(5, is_share=False))
    use = NetworkUse(name="x", te=0.8, unet=0.5, over_steps=over)
    assert use.at(4, 20) == NetworkUse(name="x", te=0.8, unet=0.5)
    assert use.at(5, 20) == NetworkUse(name="x", te=0.8, unet=0.0)
