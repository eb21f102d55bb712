"""Importing is cheap, silent and touches nothing; what is slow to load waits for its turn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sdforge"
# Each of these takes seconds to import.
HEAVY = ("torch", "diffusers", "transformers", "gradio", "pandas", "accelerate")


def modules_of(package: str) -> list[str]:
    return [
        f"sdforge.{package}.{path.stem}"
        for path in (PACKAGE / package).glob("*.py")
        if path.stem != "__init__"
    ]


def loaded_by(folder: Path, *names: str) -> set[str]:
    """Import modules in a new process in an empty folder; return all top-level modules loaded."""
    code = f"import {', '.join(names)}, json, sys; sys.stderr.write(json.dumps(list(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "", "importing prints"
    assert list(folder.iterdir()) == [], "importing writes files"
    return {name.partition(".")[0] for name in json.loads(answer.stderr)}


@pytest.mark.parametrize(
    ("names", "unwanted"),
    [
        (["sdforge.launcher"], (*HEAVY, "fastapi", "uvicorn", "numpy", "PIL", "pydantic")),
        (["sdforge.flags", *modules_of("environment")], (*HEAVY, "fastapi", "numpy")),
        (["sdforge.server", "sdforge.api.app"], HEAVY),
        (["sdforge.engine", "sdforge.engine.runner", "sdforge.sampling.names"], HEAVY),
        (modules_of("live"), (*HEAVY, "fastapi", "websockets", "PIL")),
        ([*modules_of("output"), *modules_of("prompt"), *modules_of("core")], HEAVY),
        (["sdforge.ui.app"], ("torch", "diffusers", "transformers")),
    ],
    ids=["launcher", "launch.py", "api", "engine", "live", "output and prompt", "ui"],
)
def test_what_starts_the_server_loads_nothing_heavy(
    tmp_path: Path, names: list[str], unwanted: tuple[str, ...]
) -> None:
    assert loaded_by(tmp_path, *names) & set(unwanted) == set()
