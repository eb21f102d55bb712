"""What is to be installed: the runtime's lock file, the developers' one, xformers."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

XFORMERS = "xformers==0.0.35"
# What our samplers are compared with. The modules of it that tests load need nothing that is not
# locked; among the rest of its requirements, torchvision breaks diffusers beside torch for CPUs.
_PEERS = ("k-diffusion==0.1.1",)
# On Windows PyPI has torch for the CPU only.
_WINDOWS_CUDA_INDEX = "https://download.pytorch.org/whl/cu130"


class InstallError(Exception):
    """The environment could not be made; the message is one sentence for the user."""


@dataclass(frozen=True)
class Step:
    """Something to install once: a pip command, then the lines of a requirements file.

    `required` is False where the server can do without.
    """

    name: str
    command: tuple[str, ...] = ()
    requirements: str = ""
    required: bool = True

    @property
    def digest(self) -> str:
        """What tells this step from one that installs something else."""
        return hashlib.sha256("\0".join((*self.command, self.requirements)).encode()).hexdigest()


def runtime_step(root: Path, environ: Mapping[str, str], *, platform: str = sys.platform) -> Step:
    """Return the step that installs `requirements.lock`, with torch from where the user wants it.

    As in A1111, `TORCH_COMMAND` is the whole pip command for torch and `TORCH_INDEX_URL` a further
    index to look for it.

    Raises:
        InstallError: the lock file is missing.
    """
    lock = _read(root / "requirements.lock")
    command = _torch_command(lock, environ, platform)
    if command:
        lock = re.sub(r"^torch==.*\n", "", lock, flags=re.MULTILINE)
    return Step("lock", command, lock)


def dev_step(root: Path) -> Step:
    """Return the step that installs what tests and checks need.

    Raises:
        InstallError: the lock file is missing.
    """
    lock = _read(root / "requirements-dev.lock")
    return Step("dev", ("install", "--no-deps", *_PEERS), lock)


def xformers_step(environ: Mapping[str, str]) -> Step:
    """Return the step for xformers, without its dependencies: they could change torch."""
    package = shlex.split(environ.get("XFORMERS_PACKAGE", XFORMERS))
    return Step("xformers", ("install", "--no-deps", *package), required=False)


def _torch_command(lock: str, environ: Mapping[str, str], platform: str) -> tuple[str, ...]:
    """Return pip's arguments that install torch, or none where the lock file alone does it."""
    if command := environ.get("TORCH_COMMAND"):
        words = shlex.split(command)
        return tuple(words[1:] if words[:1] == ["pip"] else words)
    index = environ.get("TORCH_INDEX_URL")
    if index is None and platform == "win32" and shutil.which("nvidia-smi"):
        index = _WINDOWS_CUDA_INDEX
    pins = re.findall(r"^torch==\S+", lock, re.MULTILINE)
    return ("install", *pins, "--extra-index-url", index) if index else ()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InstallError(f"{path} is missing; is this a complete copy of sdforge?") from error
