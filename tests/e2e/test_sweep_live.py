"""Sweeps on a server as users run it, with the model that ships: kill -9 in the middle."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scripts.make_tiny_checkpoints import TINY_METADATA, write_checkpoint
from sdforge.core.paths import demo_checkpoint
from tests.live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SWEEP: dict[str, Any] = {
    "request": {
        "prompt": "an owl, blue background", "steps": 8, "width": 64, "height": 64, "seed": 7,
        "enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.6,
    },
    "axes": [
        {"axis": "Checkpoint name", "values": "demo, other"},
        {"axis": "Sampler", "values": "Euler a, DPM++ 2M"},
        {"axis": "Denoising", "values": "0.3, 0.8"},
    ],
    "save_images": True,
}  # fmt: skip


def grid(live: LiveServer, sweep: str) -> tuple[tuple[int, int], bytes]:
    picture = Image.open(io.BytesIO(live.read(f"/api/v1/sweeps/{sweep}/grid?format=png")))
    return picture.size, picture.convert("RGB").tobytes()


def cells(live: LiveServer, sweep: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = live.get(f"/api/v1/sweeps/{sweep}")["cells"]
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait as long as the test may take: machines are slow, and a cell is a job of two passes."""
    while not condition():
        time.sleep(0.1)


def done(live: LiveServer, sweep: str) -> list[dict[str, Any]]:
    return [cell for cell in cells(live, sweep) if cell["status"] == "done"]


def wait_for_end(live: LiveServer, sweep: str) -> None:
    until(lambda: bool(live.get(f"/api/v1/sweeps/{sweep}")["status"] == "done"))


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_sweep_ends_with_the_grid_of_an_undisturbed_one(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    shutil.copy(demo_checkpoint(), folder / "demo.safetensors")
    write_checkpoint(folder / "other.safetensors", metadata=TINY_METADATA)
    live = LiveServer(tmp_path, page=False)
    live.start()
    try:
        # Legends name checkpoints with their hashes as soon as those are known.
        first = {
            "request": {"steps": 1, "width": 64, "height": 64},
            "axes": SWEEP["axes"][:1],
            "save_images": False,
        }
        assert live.post("/api/v1/sweeps", first | {"id": "first"})[0] == 202
        wait_for_end(live, "first")
        models = "/sdapi/v1/sd-models"
        until(lambda: all(model["hash"] for model in live.get(models)))
        assert live.post("/api/v1/sweeps", SWEEP | {"id": "whole"})[0] == 202
        wait_for_end(live, "whole")
        wanted = grid(live, "whole")
        live.stop()
        live.start()

        assert live.post("/api/v1/sweeps", SWEEP | {"id": "killed"})[0] == 202
        until(lambda: len(done(live, "killed")) >= 3)
        live.kill()
        live.start()
        before = done(live, "killed")
        assert 3 <= len(before) < 8
        wait_for_end(live, "killed")

        after = cells(live, "killed")
        assert {cell["status"] for cell in after} == {"done"}
        # What was drawn is the same file; what was cut off was drawn once more.
        assert [after[cell["index"]] for cell in before] == before
        assert grid(live, "killed") == wanted
        assert len(list((tmp_path / "outputs").rglob("xyz_grid*"))) == 2
    finally:
        live.stop()
