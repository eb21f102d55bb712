"""Makes the virtual environment and installs the steps that are not done yet.

A stamp file in the environment names what a step installed and is written last: an interrupted
installation is noticed and taken up again, and a second start costs a few file reads.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sdforge.environment.pip import last_line, run_pip, site_packages
from sdforge.environment.steps import InstallError, Step

# torch's CPU build alone takes 0.8 GB, everything together 1.5 GB; with CUDA about 7 GB.
MINIMUM_FREE_BYTES = 2 * 10**9

Say = Callable[[str], None]


def venv_folder(root: Path) -> Path:
    """Return the folder of the virtual environment."""
    return root / ".venv"


def venv_python(root: Path) -> Path:
    """Return the environment's interpreter, whether or not it is there."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return venv_folder(root) / inside


def is_done(root: Path, step: Step) -> bool:
    """Tell whether a step was finished in the environment as it is now."""
    try:
        stamp = _stamp(root, step).read_text(encoding="utf-8")
    except OSError:
        return False
    return stamp == _stamp_text(root, step) and venv_python(root).exists()


def _stamp(root: Path, step: Step) -> Path:
    return venv_folder(root) / f".sdforge-{step.name}"


def _stamp_text(root: Path, step: Step) -> str:
    return f"{step.digest} {_venv_version(root)}\n"


def _venv_version(root: Path) -> str:
    """Return the Python version of the environment, as its own file says; "" if there is none."""
    try:
        text = (venv_folder(root) / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"^version\s*=\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def prepare(
    root: Path, steps: Sequence[Step], say: Say, *, again: frozenset[str] = frozenset()
) -> None:
    """Do the steps that are not done yet, and those named in `again` in any case.

    Raises:
        InstallError: a required step failed.
    """
    if not again and all(is_done(root, step) for step in steps):
        return
    with _one_at_a_time(root, say):
        for step in steps:
            if step.name in again or not is_done(root, step):
                try:
                    _carry_out(root, step, say, force=step.name in again)
                except InstallError as error:
                    if step.required:
                        raise
                    say(f"{step.name}: {error} Going on without it.")


def _carry_out(root: Path, step: Step, say: Say, *, force: bool) -> None:
    began = time.monotonic()
    stamp = _stamp(root, step)
    _ensure_venv(root, say)
    # Without the stamp an earlier run did not come to its end.
    interrupted = not stamp.exists()
    stamp.unlink(missing_ok=True)
    if interrupted:
        _forget_half_installed(root)
    again = ("--force-reinstall", "--no-deps") if force else ()
    python = venv_python(root)
    try:
        if step.command:
            run_pip(venv_folder(root), python, (*step.command, *again), say)
        if step.requirements:
            listed = venv_folder(root) / f"requirements-{step.name}.txt"
            listed.write_text(step.requirements, encoding="utf-8")
            run_pip(venv_folder(root), python, ("install", "-r", str(listed), *again), say)
        stamp.write_text(_stamp_text(root, step), encoding="utf-8")
    except OSError as error:
        raise InstallError(_explain_os_error(error, stamp)) from error
    say(f"Installed in {time.monotonic() - began:.0f} s.")


def _ensure_venv(root: Path, say: Say) -> None:
    folder = venv_folder(root)
    python = venv_python(root)
    if _succeeds([str(python), "-m", "pip", "--version"]):
        return
    # An environment made by another tool may lack pip alone.
    if _succeeds([str(python), "-m", "ensurepip", "--upgrade"]):
        return
    say(f"Making a Python environment in {folder}")
    try:
        if (folder / "pyvenv.cfg").exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InstallError(_explain_os_error(error, folder)) from error
    if free < MINIMUM_FREE_BYTES:
        raise InstallError(
            f"{folder} has {free / 1e9:.1f} GB of free disk space; the installation needs at least "
            f"{MINIMUM_FREE_BYTES / 1e9:.0f} GB (about 8 GB for an NVIDIA GPU)."
        )
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise InstallError(_explain_venv(made.stdout + made.stderr, folder))


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _explain_venv(output: str, folder: Path) -> str:
    if "ensurepip" in output or "No module named venv" in output:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return (
            "This Python cannot make virtual environments; on Debian and Ubuntu: "
            f"apt install python{version}-venv"
        )
    return f"The environment in {folder} could not be made: {last_line(output)}"


def _forget_half_installed(root: Path) -> None:
    """Drop the records of packages whose files are not all there, so that pip installs them anew.

    pip unpacks a package's record with its files; killed in between, it would later take the
    package for installed.
    """
    for folder in site_packages(venv_folder(root)):
        for info in folder.glob("*.dist-info"):
            if not _is_complete(folder, info):
                shutil.rmtree(info, ignore_errors=True)


def _is_complete(folder: Path, info: Path) -> bool:
    try:
        rows = (info / "RECORD").read_text(encoding="utf-8").splitlines()
        for row in rows:
            name, _, size = row.rsplit(",", 2)
            if size and (folder / name.strip('"')).stat().st_size < int(size):
                return False
    except (OSError, ValueError):
        return False
    return bool(rows)


def _explain_os_error(error: OSError, path: Path) -> str:
    return f"{path} cannot be written: {error.strerror or error}."


@contextmanager
def _one_at_a_time(root: Path, say: Say) -> Iterator[None]:
    """Hold a lock while installing, so that two starts at once do not disturb each other."""
    path = root / ".install.lock"
    try:
        file = path.open("a+b")
    except OSError as error:
        raise InstallError(_explain_os_error(error, path)) from error
    with file:
        waited = False
        while not _try_lock(file):
            if not waited:
                say("Another start is installing; waiting for it")
            waited = True
            time.sleep(0.5)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    """Lock a file for this process until it is closed; False if another one holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
