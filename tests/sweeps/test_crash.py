"""A server that is killed in the middle of a sweep, and the one that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdforge.core.paths import Paths
from sdforge.sweeps import sheets
from sdforge.sweeps.manifest import CellStatus, SweepStatus
from sdforge.sweeps.sweeps import Sweeps
from tests.engine.fakes import FakeRunner, make_engine
from tests.sweeps.conftest import PATIENCE, Open, asked

# The third cell stands still in its second step until the process is killed.
_VICTIM = """
import sys, threading
from pathlib import Path
from sdforge.core.paths import Paths
from sdforge.sweeps.sweeps import Sweeps
from tests.engine.fakes import FakeRunner, make_engine
from tests.sweeps.conftest import asked

class Standing(FakeRunner):
    def _steps(self, request, batch, emit, control):
        if request.seed == 3:
            print("in the middle", flush=True)
            threading.Event().wait()
        return super()._steps(request, batch, emit, control)

data = Path(sys.argv[1])
engine, _ = make_engine(data, Standing())
sweeps = Sweeps(engine, Paths.under(data))
sweeps.submit(asked(("Seed", "1-6"), ("Steps", "1, 2")), sweep_id="killed", save_images=False)
engine.start()
threading.Event().wait()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_after_kill_9_a_sweep_goes_on_and_its_grid_is_that_of_an_undisturbed_one(
    open_bench: Open, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = Path(__file__).parents[2]
    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(tmp_path)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout is not None
    try:
        assert victim.stdout.readline() == "in the middle\n"
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        victim.stdout.close()

    bench = open_bench()
    cut = bench.sweeps.get("killed")
    assert cut.status is SweepStatus.RUNNING
    before = {cell.index: cell.job for cell in cut.cells if cell.status is CellStatus.DONE}
    bench.sweeps.start()
    bench.engine.start()
    done = bench.sweeps.wait("killed", PATIENCE)
    assert done.status is SweepStatus.DONE
    assert {cell.status for cell in done.cells} == {CellStatus.DONE}
    # What was there is not drawn again, what was cut off is.
    assert {index: done.cells[index].job for index in before} == before
    assert done.cells[2].attempt == 1
    assert {cell.attempt for cell in done.cells[3:]} == {0}

    other = tmp_path_factory.mktemp("undisturbed")
    engine, _ = make_engine(other, FakeRunner())
    try:
        sweeps = Sweeps(engine, Paths.under(other))
        asked_again = asked(("Seed", "1-6"), ("Steps", "1, 2"))
        sweeps.submit(asked_again, sweep_id="whole", save_images=False)
        engine.start()
        whole = sweeps.wait("whole", PATIENCE)
        assert sheets.draw(whole) == sheets.draw(done)
    finally:
        engine.close(timeout=10)


def test_a_server_that_stops_leaves_a_sweep_to_the_next_one(open_bench: Open) -> None:
    first = open_bench(FakeRunner(gate_step=1))
    first.sweeps.submit(asked(("Seed", "1-5")), sweep_id="left")
    first.engine.start()
    assert first.runner.reached.acquire(timeout=PATIENCE)
    first.runner.gate.set()
    first.engine.close(timeout=10)

    second = open_bench()
    second.sweeps.start()
    second.engine.start()
    done = second.sweeps.wait("left", PATIENCE)
    assert [cell.status for cell in done.cells] == [CellStatus.DONE] * 5
    assert second.sweeps.newest(5)[0].id == "left"
