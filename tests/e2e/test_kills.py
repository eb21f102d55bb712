"""A busy server that is killed at random moments: a small run of `scripts/load/kills.py`."""

import os
import random
from pathlib import Path

import pytest

from scripts.load import kills


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_nothing_is_lost_when_a_busy_server_is_killed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    kills.make_checkpoint(data)
    faults, figures = kills.run(data, 3, random.Random(4))
    assert faults == []
    assert figures["kills"] == 3
