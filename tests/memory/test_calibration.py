from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.memory.calibration import (
    HIGHEST,
    MARGIN,
    START_DENOISER,
    START_VAE,
    Calibration,
    Key,
)

KEY = Key("sdxl", "NVIDIA RTX 3060", "sdpa", "denoise")
DECODE = Key("vae-4", "NVIDIA RTX 3060", "sdpa", "decode")
MIB = 2**20


def test_factors_start_careful() -> None:
    fresh = Calibration()
    assert fresh.factor(KEY) == START_DENOISER == 1.5
    assert fresh.factor(DECODE) == START_VAE == 2.8


def test_a_higher_peak_counts_at_once_a_lower_one_slowly() -> None:
    learning = Calibration()
    learning.observe(KEY, 100 * MIB, 200 * MIB)
    assert learning.factor(KEY) == pytest.approx(2 * MARGIN)
    other = Calibration()
    other.observe(KEY, 100 * MIB, 110 * MIB)
    assert 1.1 * MARGIN < other.factor(KEY) < START_DENOISER
    for _ in range(60):
        other.observe(KEY, 100 * MIB, 110 * MIB)
    assert other.factor(KEY) == pytest.approx(1.1 * MARGIN, rel=1e-3)


def test_running_out_of_memory_raises_the_factor_and_forgets_what_misled() -> None:
    learning = Calibration()
    learning.observe(KEY, 100, 120)
    before = learning.factor(KEY)
    learning.raise_after_oom(KEY)
    assert learning.factor(KEY) == pytest.approx(before * 1.3)
    assert learning.factor(DECODE) == START_VAE


def test_what_ran_out_of_memory_is_not_tried_again_soon() -> None:
    learning = Calibration()
    for _ in range(40):
        learning.observe(KEY, 100, 110)
    failed = learning.factor(KEY)
    learning.raise_after_oom(KEY)
    for _ in range(15):
        learning.observe(KEY, 100, 110)
        assert learning.factor(KEY) > failed
    for _ in range(100):
        learning.observe(KEY, 100, 110)
    assert learning.factor(KEY) == pytest.approx(failed, rel=0.01)


def test_what_was_learned_outlives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "calibration.json"
    learning = Calibration(path)
    learning.observe(KEY, 100, 300)
    again = Calibration(path)
    assert again.factor(KEY) == learning.factor(KEY)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_loses_nothing_but_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    learning = Calibration(tmp_path / "file" / "calibration.json")
    learning.observe(KEY, 100, 300)
    assert learning.factor(KEY) == pytest.approx(3 * MARGIN)
    assert "next start" in caplog.text


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_a_damaged_file_means_starting_values(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(data)
    assert Calibration(path).factor(KEY) == START_DENOISER


@pytest.mark.parametrize(
    "row", ['{"factor": "x", "ratios": [], "floor": 1}', "3", "[]", "null", '{"factor": 1.2}',
            '{"factor": NaN, "ratios": [], "floor": 1}',
            '{"factor": 0.01, "ratios": [], "floor": 0.01}'],
)  # fmt: skip
def test_a_factor_from_a_file_is_checked(tmp_path: Path, row: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(f'{{"format": 1, "factors": {{"{KEY.text}": {row}}}}}')
    assert 1.0 <= Calibration(path).factor(KEY) <= START_DENOISER


peaks = st.integers(1, 10**12)


@given(st.lists(st.tuples(peaks, peaks) | st.none(), max_size=40))
def test_a_factor_stays_between_1_and_8_whatever_was_measured(
    history: list[tuple[int, int] | None],
) -> None:
    learning = Calibration()
    for step in history:
        if step is None:
            learning.raise_after_oom(KEY)
        else:
            learning.observe(KEY, *step)
        assert 1.0 <= learning.factor(KEY) <= HIGHEST


@given(st.integers(1, 10**9), st.floats(0.1, 5), st.lists(st.booleans(), max_size=3))
def test_equal_peaks_lead_to_one_factor_without_swinging(
    predicted: int, ratio: float, noise: list[bool]
) -> None:
    learning = Calibration()
    for high in noise:
        learning.observe(KEY, predicted, int(predicted * (3 if high else 1)) + 1)
    factors = []
    for _ in range(80):
        learning.observe(KEY, predicted, max(1, int(predicted * ratio)))
        factors.append(learning.factor(KEY))
    steps = [after - before for before, after in zip(factors, factors[1:], strict=False)]
    assert not (any(step > 1e-9 for step in steps) and any(step < -1e-9 for step in steps[8:]))
    wanted = min(max(max(1, int(predicted * ratio)) / predicted * MARGIN, 1), HIGHEST)
    assert factors[-1] == pytest.approx(wanted, rel=1e-3)


@given(st.integers(1, 10**9), st.floats(1, 7))
def test_after_a_peak_was_seen_the_next_estimate_covers_it(predicted: int, ratio: float) -> None:
    learning = Calibration()
    measured = int(predicted * ratio)
    learning.observe(KEY, predicted, measured)
    assert predicted * learning.factor(KEY) >= measured
