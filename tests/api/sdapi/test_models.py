"""Checkpoint lists, loading, unloading, memory."""

from __future__ import annotations

from pathlib import Path

from tests.api.conftest import Server


def test_checkpoints_have_a1111s_keys_and_say_why_one_cannot_run(server: Server) -> None:
    models = {row["model_name"]: row for row in server.client.get("/sdapi/v1/sd-models").json()}
    assert set(models) == {"tiny", "other", "broken"}
    tiny = models["tiny"]
    assert {"title", "model_name", "hash", "sha256", "filename", "config"} <= set(tiny)
    assert (tiny["title"], tiny["hash"], tiny["error"]) == ("tiny.safetensors", None, None)
    assert Path(tiny["filename"]).is_file()
    assert models["broken"]["error"]


def test_a_new_file_is_listed_after_a_refresh(server: Server, tiny_checkpoint: Path) -> None:
    server.client.get("/sdapi/v1/sd-models")
    (server.paths.models / "Stable-diffusion" / "new.safetensors").symlink_to(tiny_checkpoint)
    answer = server.client.post("/sdapi/v1/refresh-checkpoints")
    assert (answer.status_code, answer.json()) == (200, None)
    names = [row["model_name"] for row in server.client.get("/sdapi/v1/sd-models").json()]
    assert "new" in names


def test_vae_files_are_listed_for_both_kinds_of_clients(server: Server) -> None:
    folder = server.paths.models / "VAE"
    folder.mkdir()
    (folder / "fine.safetensors").write_bytes(b"")
    expected = [{"model_name": "fine.safetensors", "filename": str(folder / "fine.safetensors")}]
    assert server.client.get("/sdapi/v1/sd-vae").json() == expected
    assert server.client.get("/sdapi/v1/sd-modules").json() == expected


def test_unload_and_reload_answer_when_it_is_done(server: Server) -> None:
    server.draw()
    assert server.client.post("/sdapi/v1/unload-checkpoint").json() == {}
    assert (server.runner.unloads, server.runner.loads) == (1, [])
    assert server.client.post("/sdapi/v1/reload-checkpoint").json() == {}
    assert server.runner.loads == ["other.safetensors"]


def test_memory_has_a1111s_shape_and_the_managers_own_report(server: Server) -> None:
    server.draw()
    memory = server.client.get("/sdapi/v1/memory").json()
    ram = memory["ram"]
    assert set(ram) == {"free", "used", "total"}
    assert ram["free"] + ram["used"] == ram["total"]
    assert memory["cuda"] == {"error": "unavailable"}
    own = memory["sdforge"]
    assert own["loaded"] == ["other.safetensors"]
    assert own["memory_mode"]["setting"] == "auto"
    assert own["now"]["process"]["anonymous"] > 0


def test_memory_of_an_accelerator_has_a1111s_keys(server: Server) -> None:
    report = {"device": "cuda:0", "total_bytes": 100, "own_bytes": 30}
    report |= {"peak_bytes": 40, "foreign_bytes": 10}
    server.runner.memory_report = lambda: report  # type: ignore[method-assign]
    server.draw()
    cuda = server.client.get("/sdapi/v1/memory").json()["cuda"]
    assert set(cuda) == {"system", "active", "allocated", "reserved", "inactive", "events"}
    assert cuda["system"] == {"free": 60, "used": 40, "total": 100}
    assert cuda["allocated"] == {"current": 30, "peak": 40}
