"""The developers' environment: launch.py's, with requirements-dev.lock on top."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sdforge.environment import steps, venv
from sdforge.environment.pip import Progress
from sdforge.environment.process import process_environment

ROOT = Path(__file__).resolve().parents[1]


def run_in_venv(arguments: list[str]) -> int:
    """Run the environment's Python with some arguments; return its exit status."""
    say = Progress(sys.stderr)
    try:
        venv.prepare(ROOT, [steps.runtime_step(ROOT, os.environ), steps.dev_step(ROOT)], say)
    except steps.InstallError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        say.close()
    # One thread each: tests that run side by side, or beside a build, else get in each other's way.
    environ = {**os.environ, **process_environment(os.environ)}
    environ.setdefault("OMP_NUM_THREADS", "1")
    sys.stdout.flush()
    command = [str(venv.venv_python(ROOT)), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode
