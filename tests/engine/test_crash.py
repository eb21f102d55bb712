"""A server that is killed in the middle of a job, and the one that starts after it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdforge.engine import JobStatus
from tests.engine.conftest import Build
from tests.engine.fakes import PATIENCE

# The first batch is saved, then the runner stands still in the second one.
_VICTIM = """
import sys, threading, time
from pathlib import Path
from tests.engine.fakes import FakeRunner, a_request, make_engine

class Standing(FakeRunner):
    def _steps(self, request, batch, emit, control):
        if request.prompt == "long" and batch == 1:
            while not engine.get("task(long)").images:
                time.sleep(0.01)
            print("in the middle", flush=True)
            threading.Event().wait()
        return super()._steps(request, batch, emit, control)

engine, _ = make_engine(Path(sys.argv[1]), Standing())
engine.submit(a_request("done", steps=1), job_id="task(done)")
engine.submit(a_request("long", batch_count=3), job_id="task(long)")
engine.submit(a_request("first", seed=1), job_id="task(first)")
engine.submit(a_request("second", seed=2), job_id="task(second)")
engine.start()
threading.Event().wait()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_after_kill_9_the_running_job_is_interrupted_and_the_queued_ones_run(
    build: Build, tmp_path: Path
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

    engine, runner = build()
    cut = engine.get("task(long)")
    assert cut.status is JobStatus.INTERRUPTED
    assert cut.error is not None and cut.error.kind == "Interrupted"
    assert [image.index for image in cut.images] == [0]
    assert engine.image_data("task(long)", 0)[0].startswith(b"\x89PNG")
    assert engine.get("task(done)").status is JobStatus.DONE
    assert engine.queue_position("task(second)") == 1

    engine.start()
    for job_id in ("task(first)", "task(second)"):
        assert engine.wait(job_id, PATIENCE).status is JobStatus.DONE
    assert runner.ran == ["first", "second"]
    assert runner.settings[0] == engine.get("task(first)").settings
