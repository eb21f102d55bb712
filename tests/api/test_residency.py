"""Where models are, and moving them, over a real engine with a fake model."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import Server

HELD = {
    "title": "other.safetensors", "host_bytes": 30, "own_bytes": 20, "mapped_bytes": 5,
    "leases": 0, "idle_seconds": 1.0,
}  # fmt: skip
REPORT = {
    "components": [
        {"role": "denoiser", "name": "other", "host_bytes": 20, "device_bytes": 20},
        {"role": "vae", "name": "tiny", "host_bytes": 9, "device_bytes": 9},
    ],
    "host": {
        "host_bytes": 30,
        "mapped_bytes": 5,
        "budget_bytes": 100,
        "available_bytes": 50,
        "leaked_handles": 0,
        "checkpoints": [HELD],
        "components": [
            {"role": "denoiser", "name": "other", "checkpoints": ["other.safetensors"]},
            {"role": "vae", "name": "tiny", "checkpoints": ["tiny.safetensors"]},
        ],
    },
}


def models(server: Server) -> dict[str, Any]:
    answer = server.client.get("/api/v1/models")
    assert answer.status_code == 200
    return {row["name"]: row for row in answer.json()["models"]}


def test_checkpoints_are_on_disk_before_anything_is_loaded(server: Server) -> None:
    rows = models(server)
    assert {row["state"] for row in rows.values()} == {"disk"}
    assert rows["broken"]["error"]


def test_a_checkpoint_says_which_bytes_it_has_where(server: Server) -> None:
    server.runner.memory_report = lambda: REPORT  # type: ignore[method-assign]
    server.draw()
    rows = models(server)
    assert rows["other"]["state"] == "device"
    assert (rows["other"]["device_bytes"], rows["other"]["own_bytes"]) == (20, 20)
    assert rows["tiny"]["state"] == "disk"
    memory = server.client.get("/api/v1/models").json()["memory"]
    assert memory == {
        "host_bytes": 30, "mapped_bytes": 5, "budget_bytes": 100, "available_bytes": 50,
        "leaked_handles": 0, "device_bytes": 29,
    }  # fmt: skip


def test_single_models_are_loaded_and_unloaded(server: Server) -> None:
    answer = server.client.post("/api/v1/models/load", json={"model": "tiny"})
    assert (answer.status_code, answer.json()["loaded"]) == (200, "tiny.safetensors")
    server.client.post("/api/v1/models/load", json={"model": "other"})
    assert server.runner.loads == ["tiny.safetensors", "other.safetensors"]
    answer = server.client.post("/api/v1/models/unload", json={"model": "tiny"})
    assert answer.status_code == 200
    assert server.runner.loads == ["other.safetensors"]
    assert server.engine.model_state()["title"] == "other.safetensors"
    server.client.post("/api/v1/models/unload", json={"model": "other"})
    assert server.engine.model_state()["title"] == ""


def test_all_models_may_leave_the_device_only(server: Server) -> None:
    server.draw()
    answer = server.client.post("/api/v1/models/unload", json={"level": "device"})
    assert set(answer.json()) == {"freed_host_bytes", "freed_device_bytes", "memory"}
    assert (server.runner.left_device, server.runner.unloads) == (1, 0)
    server.client.post("/api/v1/models/unload", json={})
    assert server.runner.unloads == 1


def test_unknown_models_and_levels_are_refused(server: Server) -> None:
    assert server.client.post("/api/v1/models/load", json={"model": "nope"}).status_code == 422
    assert server.client.post("/api/v1/models/unload", json={"model": "nope"}).status_code == 422
    assert server.client.post("/api/v1/models/unload", json={"level": "moon"}).status_code == 422
