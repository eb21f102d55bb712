"""GET and POST /sdapi/v1/options."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from sdforge.api.sdapi.foreign_options import FOREIGN_OPTIONS
from sdforge.core.settings import OPTIONS
from tests.api.conftest import Server, StartServer


def options(server: Server) -> dict[str, Any]:
    values: dict[str, Any] = server.client.get("/sdapi/v1/options").json()
    return values


def post(server: Server, values: Any) -> Any:
    return server.client.post("/sdapi/v1/options", json=values)


def test_every_option_is_there_with_the_checkpoint_that_will_run(server: Server) -> None:
    values = options(server)
    assert set(OPTIONS) <= set(values)
    assert values["sd_model_checkpoint"] == "other.safetensors"
    assert values["jpeg_quality"] == 80


def test_a_change_is_answered_with_null_seen_at_once_and_kept(start_server: StartServer) -> None:
    server = start_server()
    answer = post(server, {"CLIP_stop_at_last_layers": 2, "eta_noise_seed_delta": 31337})
    assert (answer.status_code, answer.json()) == (200, None)
    assert options(server)["CLIP_stop_at_last_layers"] == 2
    server.engine.close()
    assert options(start_server())["eta_noise_seed_delta"] == 31337


def test_posting_everything_back_changes_nothing(server: Server) -> None:
    post(server, {"CLIP_stop_at_last_layers": 2})
    before = server.paths.settings.read_bytes()
    values = options(server)
    # Clients send A1111's floats for whole numbers.
    values = {k: float(v) if type(v) is int else v for k, v in values.items()}
    assert post(server, values).status_code == 200
    assert server.paths.settings.read_bytes() == before
    assert server.runner.loads == []


def test_posting_everything_back_with_one_change_changes_that(server: Server) -> None:
    assert post(server, options(server) | {"jpeg_quality": 91.0}).status_code == 200
    assert json.loads(server.paths.settings.read_text()) | {"jpeg_quality": 91} == json.loads(
        server.paths.settings.read_text()
    )
    assert server.engine.settings.current.sd_model_checkpoint == ""


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"jpeg_quality": 101}, "1 to 100"),
        ({"samples_format": "tiff"}, "png"),
        ({"forge_inference_memory": -1}, "at least 0"),
        ({"forge_inference_memory": "lots"}, "whole number"),
        ({"sd_model_checkpoint": "no-such-model"}, "tiny.safetensors"),
        ({"sd_model_checkpoint": "broken"}, "broken.safetensors"),
        ({"sd_model_checkpoint": 3}, "name of a checkpoint"),
        ({"sd_vae": "no-such-vae"}, "Automatic"),
    ],
)
def test_one_wrong_value_is_named_and_nothing_is_changed(
    shared_server: Server, values: dict[str, Any], named: str
) -> None:
    before = options(shared_server)
    answer = post(shared_server, {"CLIP_stop_at_last_layers": 2} | values)
    assert answer.status_code == 422
    assert next(iter(values)) in answer.json()["errors"]
    assert named in answer.json()["errors"]
    assert options(shared_server) == before


def test_a_part_of_a_checkpoints_name_is_not_enough(server: Server) -> None:
    assert post(server, {"sd_model_checkpoint": "tin"}).status_code == 422


@pytest.mark.parametrize("alias", ["tiny", "tiny.safetensors", "TINY.safetensors"])
def test_a_new_checkpoint_is_stored_by_title_and_loaded_at_once(server: Server, alias: str) -> None:
    assert post(server, {"sd_model_checkpoint": alias}).status_code == 200
    assert options(server)["sd_model_checkpoint"] == "tiny.safetensors"
    for _ in range(500):
        if server.runner.loads:
            break
        threading.Event().wait(0.01)
    assert server.runner.loads == ["tiny.safetensors"]


def test_locked_settings_are_left_alone_with_a_line_in_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    before = options(server)
    values = {"outdir_txt2img_samples": "/etc", "max_queued_jobs": 10**9, "jpeg_quality": 70}
    assert post(server, values).status_code == 200
    assert options(server) == before | {"jpeg_quality": 70}
    assert "outdir_txt2img_samples" in caplog.text


def test_unknown_settings_are_stored_with_a_warning(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    assert post(server, {"of_another_program": ["sd_vae"]}).status_code == 200
    assert options(server)["of_another_program"] == ["sd_vae"]
    assert "of_another_program" in caplog.text


def test_settings_that_a1111_and_forge_have_beyond_ours_are_there_and_kept(server: Server) -> None:
    values = options(server)
    assert values["lora_preferred_name"] == "Alias from file"
    assert len(values) >= 340
    assert post(server, {"lora_preferred_name": "Filename"}).status_code == 200
    assert options(server)["lora_preferred_name"] == "Filename"


def test_no_setting_of_ours_is_among_those_without_effect() -> None:
    assert not set(FOREIGN_OPTIONS) & set(OPTIONS)


def test_forges_modules_are_files_by_any_path(server: Server) -> None:
    assert options(server)["forge_additional_modules"] == []
    answer = post(server, {"forge_additional_modules": ["/there/no-such.safetensors"]})
    assert answer.status_code == 422
    folder = server.paths.models / "text_encoder"
    folder.mkdir()
    (folder / "mine.safetensors").symlink_to(
        server.paths.models / "Stable-diffusion/tiny.safetensors"
    )
    answer = post(server, {"forge_additional_modules": ["C:\\models\\x\\mine.safetensors"]})
    assert answer.status_code == 200, answer.text
    values = options(server)
    assert values["forge_additional_modules"] == ["mine.safetensors"]
    assert post(server, values).status_code == 200
    assert post(server, {"forge_additional_modules": "mine"}).status_code == 422
    assert post(server, {"forge_additional_modules": []}).status_code == 200
    assert options(server)["forge_additional_modules"] == []


def test_more_inference_memory_than_the_device_has_is_refused(server: Server) -> None:
    server.runner.memory_report = lambda: {"total_bytes": 8 * 2**30}  # type: ignore[method-assign]
    server.draw()
    assert post(server, {"forge_inference_memory": 8193}).status_code == 422
    assert post(server, {"forge_inference_memory": 4096.0}).status_code == 200
    assert options(server)["forge_inference_memory"] == 4096


def test_options_answer_without_any_checkpoint(server: Server) -> None:
    for path in (server.paths.models / "Stable-diffusion").iterdir():
        path.unlink()
    server.client.post("/sdapi/v1/refresh-checkpoints")
    assert "sd_model_checkpoint" in options(server)


@pytest.mark.parametrize("body", ["[1]", '"text"', "{", '{"mine": NaN}'])
def test_a_body_that_is_no_object_is_refused(server: Server, body: str) -> None:
    answer = server.client.post(
        "/sdapi/v1/options", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert server.client.get("/sdapi/v1/options").status_code == 200


def test_a_body_that_is_said_to_be_something_else_is_refused(shared_server: Server) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    answer = shared_server.client.post("/sdapi/v1/options", content=b"\0\1", headers=headers)
    assert answer.status_code == 422
