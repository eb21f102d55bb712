"""pip's failures as sentences, and progress on terminals and in logs."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from sdforge.environment.pip import Progress, run_pip
from sdforge.environment.steps import InstallError

FAKE_PIP = """
import sys
sys.stdout.write({output!r})
sys.exit({status})
"""


def fake_python(folder: Path, output: str, status: int) -> Path:
    """Write an 'interpreter' that prints what pip printed in a real failure."""
    script = folder / "script.py"
    script.write_text(FAKE_PIP.format(output=output, status=status))
    python = folder / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {script}\n")
    python.chmod(0o755)
    return python


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Python is a shell script")
@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            "WARNING: Retrying after connection broken by 'NameResolutionError(\"…\")'\n"
            "ERROR: Could not find a version that satisfies the requirement torch==2.13.0\n"
            "ERROR: No matching distribution found for torch==2.13.0\n",
            "the package index cannot be reached; check the network connection",
        ),
        (
            "ERROR: Could not install: [Errno 28] No space left on device\n",
            "the disk is full",
        ),
        (
            "ERROR: [Errno 13] Permission denied: '/x'\n",
            "the environment's folder cannot be written",
        ),
        (
            "ERROR: No matching distribution found for a==1\n",
            "No matching distribution found for a",
        ),
        ("Segmentation fault\n", "Segmentation fault"),
    ],
)
def test_a_failure_becomes_one_sentence_with_the_log_file_s_name(
    tmp_path: Path, output: str, sentence: str
) -> None:
    python = fake_python(tmp_path, output, 1)
    with pytest.raises(InstallError) as caught:
        run_pip(tmp_path, python, ["install", "torch"], lambda text: None)
    assert sentence in str(caught.value)
    assert str(tmp_path / "install.log") in str(caught.value)
    assert output.strip() in (tmp_path / "install.log").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Python is a shell script")
def test_progress_names_the_package_that_is_fetched(tmp_path: Path) -> None:
    said: list[str] = []
    output = "Collecting numpy==2.0\nCollecting torch==2.13.0\n"
    run_pip(tmp_path, fake_python(tmp_path, output, 0), ["install"], said.append)
    assert said == ["Fetching packages: 1, now numpy", "Fetching packages: 2, now torch"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_progress_on_one_line() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress("Fetching packages: 10, now numpy")
    progress("Done")
    progress.close()
    assert stream.getvalue() == "\rFetching packages: 10, now numpy\rDone" + " " * 28 + "\n"


def test_a_log_gets_a_line_per_phase_not_one_per_package() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for text in ("Fetching: 1", "Fetching: 2", "Installing: 1", "Installing: 2"):
        progress(text)
    progress.close()
    assert stream.getvalue() == "Fetching: 1\nInstalling: 1\n"
