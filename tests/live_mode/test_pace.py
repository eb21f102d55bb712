"""Frames a second and their evenness."""

from __future__ import annotations

from sdforge.live.pace import PaceMeter


def test_even_frames_have_no_jitter() -> None:
    meter = PaceMeter()
    assert meter.now().fps == 0.0
    for number in range(10):
        meter.add(100 + number / 8, 0.1, 0.11)
    pace = meter.now()
    assert abs(pace.fps - 8) < 1e-9 and pace.jitter_ms < 1e-6
    assert abs(pace.frame_ms - 100) < 1e-6 and abs(pace.latency_ms - 110) < 1e-6


def test_a_pause_of_the_typist_is_not_slowness() -> None:
    meter = PaceMeter()
    for number in range(5):
        meter.add(number / 10, 0.1, 0.1)
    for number in range(5):
        meter.add(60 + number / 10, 0.1, 0.1)
    assert abs(meter.now().fps - 10) < 1e-6


def test_uneven_frames_show_as_jitter() -> None:
    meter = PaceMeter()
    for number in range(20):
        meter.add(number / 5, 0.1 if number % 2 else 0.2, 0.2)
    assert abs(meter.now().jitter_ms - 50) < 1e-6
