"""`forge_inference_memory` over the API, with the real pipeline on a simulated accelerator.

Forge lost this setting in six ways (page load, restart, equal value, paste, override, first job);
each has a test here or in the browser tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sdforge.api.app import create_api
from sdforge.core.device import limited, probe
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine
from sdforge.engine.preflight import CALIBRATION_FILE
from sdforge.engine.runner import PipelineRunner
from sdforge.models.library import Library
from tests.api.conftest import BASE_URL, small
from tests.tiny import make_checkpoint

FLAGS = {"simulate_device": 2048}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inference-memory")
    make_checkpoint(folder / "models" / "Stable-diffusion" / "tiny.safetensors")
    return folder


class Running:
    """A server over the real pipeline; `restart` ends it and starts another on its folder."""

    def __init__(self, data: Path) -> None:
        self.paths = Paths.under(data)
        library = Library(self.paths, hashing=False)
        self.engine = Engine(
            paths=self.paths,
            settings=SettingsStore(self.paths.settings),
            library=library,
            make_runner=lambda: PipelineRunner(
                library,
                probe_device=lambda: limited(probe(force_cpu=True), FLAGS),
                calibration=self.paths.cache / CALIBRATION_FILE,
            ),
            version="test",
            flags=FLAGS,
        )
        self.engine.start()
        app = create_api(self.engine, paths=self.paths, flags={}, version="test")
        self.client = TestClient(app, base_url=BASE_URL)

    def set(self, **values: Any) -> int:
        return int(self.client.post("/sdapi/v1/options", json=values).status_code)

    def get(self) -> int:
        return int(self.client.get("/sdapi/v1/options").json()["forge_inference_memory"])

    def draw(self, **payload: Any) -> None:
        answer = self.client.post("/sdapi/v1/txt2img", json=small(steps=1, **payload))
        assert answer.status_code == 200, answer.text

    def in_engine(self) -> int:
        """Return what the memory manager obeyed last, in MiB."""
        report = self.client.get("/sdapi/v1/memory").json()["sdforge"]
        return int(report["inference_bytes"]) // 2**20


@pytest.fixture
def start(data: Path) -> Iterator[Callable[[], Running]]:
    running: list[Running] = []

    def begin() -> Running:
        for server in running:
            server.engine.close(timeout=20)
        running.append(Running(data))
        return running[-1]

    yield begin
    for server in running:
        server.engine.close(timeout=20)
    (data / "config.json").unlink(missing_ok=True)


def test_a_value_set_by_the_api_changes_the_very_next_job_s_plan(
    start: Callable[[], Running], caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    server.draw()
    assert server.in_engine() == 1024
    assert server.set(forge_inference_memory=1500, forge_preset="flux") == 200
    assert server.get() == 1500
    caplog.clear()
    server.client.post("/sdapi/v1/unload-checkpoint")
    with caplog.at_level("INFO", logger="sdforge"):
        server.draw()
    plans = [row.message for row in caplog.records if "inference memory" in row.message]
    assert plans
    assert all("inference memory 1500" in plan for plan in plans)
    assert server.in_engine() == 1500


def test_the_value_outlives_a_restart_and_counts_from_the_first_job_on(
    start: Callable[[], Running],
) -> None:
    server = start()
    server.set(forge_inference_memory=700)
    again = start()
    assert again.get() == 700
    again.draw()
    assert again.in_engine() == 700
    # An equal value is no change, and nothing is lost by it.
    assert again.set(forge_inference_memory=700.0) == 200
    again.draw()
    assert again.in_engine() == 700


@pytest.mark.parametrize("value", [-1, 2049, 1.5, "much", [1024]])
def test_a_value_out_of_range_is_refused_and_changes_nothing(
    start: Callable[[], Running], value: Any
) -> None:
    server = start()
    server.set(forge_inference_memory=600)
    assert server.set(forge_inference_memory=value, jpeg_quality=7) == 422
    assert server.get() == 600
    assert server.client.get("/sdapi/v1/options").json()["jpeg_quality"] == 80


def test_an_override_counts_for_one_job_and_the_next_has_the_setting_again(
    start: Callable[[], Running],
) -> None:
    server = start()
    server.set(forge_inference_memory=600)
    server.draw(override_settings={"forge_inference_memory": 900})
    assert server.in_engine() == 900
    assert server.get() == 600
    report = server.client.get("/sdapi/v1/memory").json()["sdforge"]
    held = {part["role"]: part["device_bytes"] for part in report["components"]}
    server.draw()
    assert server.in_engine() == 600
    report = server.client.get("/sdapi/v1/memory").json()["sdforge"]
    assert {part["role"]: part["device_bytes"] for part in report["components"]} == held


def test_an_override_out_of_range_is_refused_before_anything_runs(
    start: Callable[[], Running],
) -> None:
    server = start()
    for value in (-5, 4096):
        answer = server.client.post(
            "/sdapi/v1/txt2img",
            json=small(override_settings={"forge_inference_memory": value}),
        )
        assert answer.status_code == 422
        assert "forge_inference_memory" in answer.json()["message"]
    assert server.get() == 1024


def test_forge_s_request_for_flux_sets_memory_preset_and_modules(
    start: Callable[[], Running], data: Path
) -> None:
    server = start()
    body = {
        "forge_unet_storage_dtype": "Automatic (fp16 LoRA)",
        "forge_inference_memory": 1200,
        "forge_preset": "flux",
    }
    assert server.set(**body) == 200
    stored = json.loads((data / "config.json").read_text())
    assert {key: stored[key] for key in body} == body
    server.draw()
    assert server.in_engine() == 1200


def test_a_preset_s_own_value_is_applied_on_the_switch(start: Callable[[], Running]) -> None:
    server = start()
    assert server.set(flux_GPU_MB=1500) == 200
    assert server.get() == 1024
    assert server.set(forge_preset="flux") == 200
    assert server.get() == 2048 - 1500


def test_estimates_learn_from_what_jobs_took(start: Callable[[], Running], data: Path) -> None:
    (Paths.under(data).cache / CALIBRATION_FILE).unlink(missing_ok=True)
    server = start()

    def working() -> dict[str, int]:
        body = server.client.post("/api/v1/estimate", json=small()).json()
        return {phase["name"]: phase["working_bytes"] for phase in body["phases"]}

    before = working()
    server.draw()
    after = working()
    # What is counted here has no workspaces of kernels, which the first factors leave room for.
    assert after["denoise"] < before["denoise"]
    assert after["decode"] < before["decode"]
    # A restart has not forgotten.
    server = start()
    assert working() == after
