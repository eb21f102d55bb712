"""Runs pip, shows how far it is, and puts its failures into one sentence."""

from __future__ import annotations

import os
import queue
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from sdforge.environment.steps import InstallError

_INSTALLING = "Installing collected packages"


def site_packages(venv: Path) -> list[Path]:
    """Return the folders that packages are installed to: one, or none while there is no venv."""
    return [*venv.glob("lib/python*/site-packages"), *venv.glob("Lib/site-packages")]


def run_pip(venv: Path, python: Path, arguments: Sequence[str], say: Callable[[str], None]) -> None:
    """Run pip with its output in a log file, and say now and then how far it is.

    Raises:
        InstallError: pip failed.
        OSError: the log file cannot be written.
    """
    log_path = venv / "install.log"
    options = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off")
    command = [str(python), "-m", "pip", arguments[0], *options, *arguments[1:]]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_USER": "0"}
    lines: list[str] = []
    try:
        with log_path.open("a", encoding="utf-8") as log_file:
            log_file.write(f"$ {shlex.join(command)}\n")
            for line in _output_of(command, environ):
                if line:
                    lines.append(line)
                    log_file.write(line + "\n")
                say(_progress(venv, lines))
    except subprocess.CalledProcessError as error:
        raise InstallError(_explain_pip("\n".join(lines), log_path)) from error


def _output_of(command: list[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a command's output as they come, and "" twice a second in between.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with subprocess.Popen(
        command, env=environ, text=True, encoding="utf-8", errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
        try:
            while (line := _next(lines)) is not None:
                yield line
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _next(lines: queue.Queue[str | None]) -> str | None:
    try:
        return lines.get(timeout=0.5)
    except queue.Empty:
        return ""


def _pump(stream: IO[str] | None, lines: queue.Queue[str | None]) -> None:
    for line in stream or ():
        lines.put(line.rstrip())
    lines.put(None)


def _progress(venv: Path, lines: Sequence[str]) -> str:
    installing = next((line for line in reversed(lines) if line.startswith(_INSTALLING)), None)
    if installing is not None:
        there = sum(len(list(folder.glob("*.dist-info"))) for folder in site_packages(venv))
        total = installing.count(",") + 1
        return f"Installing packages: {min(there, total)} of about {total}"
    found = [line.split()[1] for line in lines if line.startswith("Collecting ")]
    if not found:
        return "Looking for packages"
    return f"Fetching packages: {len(found)}, now {found[-1].partition('=')[0]}"


_PIP_FAILURES = (
    (r"No space left on device|Errno 28", "the disk is full; about 8 GB are needed"),
    (
        r"NewConnectionError|NameResolutionError|Temporary failure in name resolution"
        r"|getaddrinfo failed|ConnectTimeout|ReadTimeout|Connection (refused|reset)|ProxyError"
        r"|Network is unreachable|No route to host",
        "the package index cannot be reached; check the network connection (or the proxy)",
    ),
    (r"SSLError|CERTIFICATE_VERIFY_FAILED", "the package index's certificate was not accepted"),
    (r"Permission denied|Errno 13|Access is denied", "the environment's folder cannot be written"),
    (r"Read-only file system|Errno 30", "the environment's folder is on a read-only disk"),
    (r"MemoryError|Cannot allocate memory", "there is not enough memory"),
)


def _explain_pip(output: str, log_path: Path) -> str:
    reason = next((why for pattern, why in _PIP_FAILURES if re.search(pattern, output)), None)
    if reason is None:
        errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else last_line(output)
    return (
        f"The packages could not be installed: {reason}. The next start goes on from here; all "
        f"that pip said is in {log_path}."
    )


def last_line(text: str) -> str:
    """Return the last line of a program's output."""
    return (text.strip().splitlines() or ["no reason was given"])[-1]


class Progress:
    """Says where the installation is: on one line of a terminal, else a line now and then."""

    def __init__(self, stream: IO[str], *, seconds_between: float = 20.0) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._between = seconds_between
        self._last = ""
        self._last_time = 0.0

    def __call__(self, text: str) -> None:
        """Show a text, unless it was shown just now."""
        now = time.monotonic()
        phase = text.split(":")[0]
        if text == self._last:
            return
        if self._terminal:
            self._stream.write(f"\r{text:<{len(self._last)}}")
        elif phase != self._last.split(":")[0] or now - self._last_time > self._between:
            self._stream.write(f"{text}\n")
            self._last_time = now
        self._stream.flush()
        self._last = text

    def close(self) -> None:
        """End the line."""
        if self._terminal and self._last:
            self._stream.write("\n")
            self._stream.flush()
