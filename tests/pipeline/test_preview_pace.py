"""How often live previews come."""

from __future__ import annotations

import pytest

from sdforge.pipeline.preview import Pace


@pytest.mark.parametrize("step_ms", [10, 50, 90, 130, 170])
def test_five_to_six_come_a_second_however_long_a_step_takes(step_ms: int) -> None:
    assert 50 <= len(paced(step_ms, pauses=0)) <= 60


def test_slow_steps_have_one_each_and_slow_previews_make_pauses() -> None:
    assert paced(500, pauses=0) == list(range(500, 10_001, 500))
    # 40 ms each, and twenty times as long between them.
    assert 12 <= len(paced(50, pauses=20, preview_ms=40)) <= 14


def paced(step_ms: int, *, pauses: int, preview_ms: int = 0) -> list[int]:
    """Return when previews come in ten seconds of steps of one length, in milliseconds."""
    pace, found = Pace(pauses), []
    for now in range(step_ms, 10_001, step_ms):
        if pace.is_due(now / 1000):
            found.append(now)
            pace.made(now / 1000, (now + preview_ms) / 1000)
    return found
