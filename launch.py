"""Starts sdforge: `python launch.py`, with A1111's flags.

Makes the environment in `.venv` the first time, then runs the server in it. Standard library only,
and readable by older Pythons, which are told in a sentence that they are too old.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdforge.flags import Flags

ROOT = Path(__file__).resolve().parent
# Set for the process that takes this one's place when all is installed.
PREPARED = "SDFORGE_PREPARED"


def refuse_old_python() -> None:
    """Exit with a sentence under a Python that cannot run the rest."""
    if sys.version_info >= (3, 11) or "--skip-python-version-check" in sys.argv:
        return
    names = ["python3.13", "python3.12", "python3.11"]
    newer = [name for name in names if shutil.which(name)]
    advice = f"run {newer[0]} launch.py" if newer else "install a newer one"
    found = ".".join(str(part) for part in sys.version_info[:3])
    sys.exit(f"sdforge needs Python 3.11 or newer and this is {found}: {advice}")


# Before the rest is even read: older Pythons stumble over its annotations.
refuse_old_python()


def main(arguments: list[str]) -> int:
    """Start the server; return the exit status."""
    if os.environ.pop(PREPARED, None):
        from sdforge.launcher import run_and_leave

        run_and_leave(arguments)
    from sdforge.environment.steps import InstallError
    from sdforge.flags import FlagError, parse

    try:
        flags = parse(arguments, os.environ)
        python = prepare(flags)
    except FlagError as error:
        return fail(str(error), status=2)
    except InstallError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail("stopped; the next start goes on with the installation", status=130)
    return run(python, arguments, flags)


def fail(sentence: str, status: int = 1) -> int:
    """Say why it does not go on; return the exit status."""
    print(f"launch.py: {sentence}", file=sys.stderr)
    return status


def prepare(flags: "Flags") -> Path:
    """Install what is missing; return the interpreter to run the server with."""
    from sdforge.environment import steps, venv
    from sdforge.environment.pip import Progress

    python = venv.venv_python(ROOT)
    if flags["skip_install"] or flags["skip_prepare_environment"]:
        return python if python.exists() else Path(sys.executable)
    wanted = [steps.runtime_step(ROOT, os.environ)]
    if flags["xformers"] or flags["reinstall_xformers"]:
        wanted.append(steps.xformers_step(os.environ))
    again = {"lock"} if flags["reinstall_torch"] else set()
    again |= {"xformers"} if flags["reinstall_xformers"] else set()
    # So that pip is not left running behind when we are told to end.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    say = Progress(sys.stderr)
    try:
        venv.prepare(ROOT, wanted, say, again=frozenset(again))
    finally:
        say.close()
    return python


def run(python: Path, arguments: list[str], flags: "Flags") -> int:
    """Run this file again with `python`: in this process's place, on Windows as its child.

    Anew in any case, because some variables count only when they are there from the beginning.
    """
    from sdforge.environment.process import process_environment

    needed = process_environment(
        os.environ, cuda_malloc=flags["cuda_malloc"], visible_gpu=flags["gpu_device_id"]
    )
    environ = {**os.environ, **needed, PREPARED: "1"}
    command = [str(python), str(ROOT / "launch.py"), *arguments]
    if os.name != "nt":
        os.execve(command[0], command, environ)
    try:
        return subprocess.run(command, env=environ, check=False).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
