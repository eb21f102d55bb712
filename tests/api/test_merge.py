"""POST /api/v1/merge: a real merge as a job, its name, its place, its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.core.request import GenerationRequest
from sdforge.models.families.sd_keys import Sizes
from tests.api.conftest import Server, StartServer

A, B = "first.safetensors", "second.safetensors"
SMALL = Sizes(
    unet_width=32, unet_factors=(1, 2), text_width=32, text_layers=1, vocabulary=60,
    vae_width=32, vae_factors=(1, 2), blocks=1,
)  # fmt: skip


@pytest.fixture
def server(start_server: StartServer) -> Server:
    server = start_server()
    for seed, name in enumerate((A, B)):
        write_checkpoint(server.paths.checkpoints[0] / name, SMALL, seed=seed, metadata={})
    server.engine.library.refresh()
    return server


def merge(server: Server, **values: Any) -> Any:
    return server.client.post(
        "/api/v1/merge", json={"primary_model_name": A, "secondary_model_name": B} | values
    )


def finished(server: Server, answer: Any) -> Any:
    assert answer.status_code == 202, answer.text
    job = server.engine.wait(answer.json()["id"], timeout=120)
    return server.client.get(f"/api/v1/jobs/{job.id}").json()


def test_a_merge_is_a_job_whose_checkpoint_can_be_chosen_at_once(server: Server) -> None:
    answer = merge(server, custom_name="../my mix", multiplier=1, save_as_half=False)
    assert answer.json()["file"] == "_my mix.safetensors"
    job = finished(server, answer)
    assert (job["status"], job["kind"], job["error"]) == ("done", "merge", None)
    assert job["progress"]["fraction"] == 1
    assert "Checkpoint saved: _my mix.safetensors" in job["progress"]["notices"][-1]
    folder = server.paths.checkpoints[0]
    made, b = load_file(folder / "_my mix.safetensors"), load_file(folder / B)
    assert all(made[key].equal(one) for key, one in b.items())
    titles = [row["title"] for row in server.client.get("/sdapi/v1/sd-models").json()]
    assert "_my mix.safetensors" in titles
    assert server.draw(override_settings={"sd_model_checkpoint": "_my mix"})["images"]


def test_names_are_made_up_and_never_taken_twice(server: Server) -> None:
    names = [finished(server, merge(server))["request"]["merge"]["name"] for _ in range(2)]
    assert names == [
        "0.7(first) + 0.3(second).safetensors", "0.7(first) + 0.3(second)-2.safetensors",
    ]  # fmt: skip
    taken = merge(server, custom_name="0.7(first) + 0.3(second)")
    assert taken.status_code == 422
    assert "overwrite" in taken.json()["message"]
    again = merge(server, custom_name="0.7(first) + 0.3(second)", overwrite=True)
    assert finished(server, again)["status"] == "done"
    before = (server.paths.checkpoints[0] / B).read_bytes()
    itself = merge(server, custom_name="second", overwrite=True)
    assert itself.status_code == 422
    assert "one of those that are merged" in itself.json()["message"]
    assert (server.paths.checkpoints[0] / B).read_bytes() == before


def test_a_vae_and_a_configuration_go_along(server: Server, tmp_path: Path) -> None:
    vaes = tmp_path / "models" / "VAE"
    vaes.mkdir(parents=True, exist_ok=True)
    write_checkpoint(
        vaes / "good.safetensors", SMALL, seed=8, metadata={}, prefix="first_stage_model."
    )
    folder = server.paths.checkpoints[0]
    (folder / "second.yaml").write_text("of B")
    (folder / "second.safetensors").with_suffix(".yaml").write_text("of B")
    job = finished(
        server,
        merge(server, custom_name="v", bake_in_vae="good.safetensors", config_source="B",
              interp_method="Weighted sum", metadata_json='{"author": "me", "n": 3}'),
    )  # fmt: skip
    assert job["status"] == "done", job
    made, vae = load_file(folder / "v.safetensors"), load_file(vaes / "good.safetensors")
    assert all(made[f"first_stage_model.{key}"].equal(one) for key, one in vae.items())
    assert (folder / "v.yaml").read_text() == "of B"
    with safe_open(folder / "v.safetensors", "pt") as file:
        assert (file.metadata()["author"], file.metadata()["n"]) == ("me", "3")


def test_an_interrupted_merge_leaves_nothing(server: Server) -> None:
    server.runner.gate_step = 1
    server.engine.submit(GenerationRequest(prompt="a", steps=2, width=64, height=64))
    assert server.runner.reached.acquire(timeout=60)
    answer = merge(server, custom_name="stopped")
    job_id = answer.json()["id"]
    assert server.client.post(f"/api/v1/jobs/{job_id}/cancel", json={}).status_code == 200
    server.runner.gate.set()
    assert server.engine.wait(job_id, timeout=60).status.value == "cancelled"
    left = [path.name for path in server.paths.checkpoints[0].iterdir()]
    assert not [name for name in left if "stopped" in name]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"primary_model_name": "nothing"}, "primary_model_name"),
        ({"secondary_model_name": ""}, "secondary_model_name"),
        ({"interp_method": "Add difference"}, "tertiary_model_name"),
        ({"multiplier": 7}, "multiplier"),
        ({"checkpoint_format": "ckpt"}, "checkpoint_format"),
        ({"precision": "fp4"}, "precision"),
        ({"config_source": "mine"}, "config_source"),
        ({"bake_in_vae": "nothing"}, "bake_in_vae"),
        ({"discard_weights": "(a+)+"}, "discard_weights"),
        ({"metadata_json": "[1]"}, "metadata_json"),
        ({"metadata_json": "{"}, "metadata_json"),
        ({"custom_name": "..."}, "custom_name"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(
    shared_server: Server, values: dict[str, Any], field: str
) -> None:
    payload = {"primary_model_name": "tiny", "secondary_model_name": "other"} | values
    answer = shared_server.client.post("/api/v1/merge", json=payload)
    assert answer.status_code == 422
    assert answer.json()["message"].startswith(field) or field in answer.json()["message"]


def test_a_broken_checkpoint_is_refused_with_the_reason(shared_server: Server) -> None:
    payload = {"primary_model_name": "tiny", "secondary_model_name": "broken.safetensors"}
    answer = shared_server.client.post("/api/v1/merge", json=payload)
    assert answer.status_code == 422
    assert "truncated" in answer.json()["message"]
