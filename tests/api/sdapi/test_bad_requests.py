"""Requests that cannot be done: a 4xx that names the field, and the server goes on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Server, small


def refused(server: Server, payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Post a payload that cannot be drawn, then one that can."""
    answer = server.client.post("/sdapi/v1/txt2img", json=payload)
    body: dict[str, Any] = answer.json()
    assert set(body) == {"error", "detail", "body", "errors", "message"}
    assert "Traceback" not in answer.text
    assert len(server.draw()["images"]) == 1
    return answer.status_code, body


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("width", 0, "16 to 16384"),
        ("height", -64, "16 to 16384"),
        ("steps", 10**9, "1 to 1000"),
        ("steps", 0, "1 to 1000"),
        ("steps", "many", "whole number"),
        ("batch_size", -1, "1 to 64"),
        ("n_iter", -1, "1 to 1000"),
        ("cfg_scale", 1e9, "0 to 100"),
        ("cfg_scale", "high", "number"),
        ("cfg_scale", [7], "number"),
        ("seed", "", "whole number"),
        ("seed", {"value": 1}, "whole number"),
        ("prompt", ["a", "cat"], "text"),
        ("prompt", {"text": "a cat"}, "text"),
        ("send_images", "perhaps", "bool"),
        ("styles", "anime", "list"),
        ("override_settings", "sd_vae", "dict"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    shared_server: Server, field: str, value: Any, allowed: str
) -> None:
    status, body = refused(shared_server, small(**{field: value}))
    assert status == 422
    assert body["detail"][0]["loc"] == ["body", field]
    assert body["errors"].startswith(f"{field}: ")
    assert allowed in body["errors"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", "1e400"),
        ("cfg_scale", "NaN"),
        ("denoising_strength", "Infinity"),
        ("override_settings", '{"mine": NaN}'),
        ("script_args", "[Infinity]"),
    ],
)
def test_numbers_that_are_not_finite_are_refused(
    shared_server: Server, field: str, value: str
) -> None:
    answer = shared_server.client.post(
        "/sdapi/v1/txt2img",
        content=f'{{"prompt": "a cat", "{field}": {value}}}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]


def test_all_wrong_fields_are_named_at_once(shared_server: Server) -> None:
    _, body = refused(shared_server, small(steps="x", width="y"))
    assert [item["loc"][1] for item in body["detail"]] == ["steps", "width"]


def test_an_unknown_sampler_is_refused_with_names_that_are_close(shared_server: Server) -> None:
    status, body = refused(shared_server, small(sampler_name="Euler aa"))
    assert status == 422
    assert body["error"] == "UnknownName"
    assert body["detail"][0]["loc"] == ["body", "sampler_name"]
    assert "sampler_name" in body["errors"]
    assert "'Euler a'" in body["errors"]


def test_an_unknown_scheduler_is_refused(shared_server: Server) -> None:
    status, body = refused(shared_server, small(scheduler="Karas"))
    assert status == 422
    assert "scheduler" in body["errors"]
    assert "Karras" in body["errors"]


def test_a_checkpoint_that_does_not_exist_is_refused_with_the_known_ones(
    shared_server: Server,
) -> None:
    override = {"sd_model_checkpoint": "no-such-model"}
    status, body = refused(shared_server, small(override_settings=override))
    assert status == 422
    assert body["errors"].startswith("sd_model_checkpoint: ")
    assert "tiny.safetensors" in body["errors"]


def test_a_truncated_checkpoint_is_refused_by_name(shared_server: Server) -> None:
    override = {"sd_model_checkpoint": "broken"}
    status, body = refused(shared_server, small(override_settings=override))
    assert status == 422
    assert "broken.safetensors" in body["errors"]


@pytest.mark.parametrize(
    "override",
    [{"CLIP_stop_at_last_layers": 99}, {"sd_model_checkpoint": 7}, {"samples_format": "tiff"}],
)
def test_an_override_that_cannot_be_used_is_named(
    shared_server: Server, override: dict[str, Any]
) -> None:
    status, body = refused(shared_server, small(override_settings=override))
    assert status == 422
    assert next(iter(override)) in body["errors"]


def test_more_pixels_than_allowed_are_refused(shared_server: Server) -> None:
    status, body = refused(shared_server, small(width=16384, height=16384))
    assert status == 422
    assert "pixels" in body["errors"]


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (["ae.safetensors"], "no VAE or text encoder named 'ae.safetensors'"),
        ([1], "hr_additional_modules"),
    ],
)
def test_modules_of_a_second_pass_that_there_are_not_are_refused_by_name(
    shared_server: Server, modules: list[Any], said: str
) -> None:
    status, body = refused(shared_server, small(hr_additional_modules=modules, enable_hr=True))
    assert status == 422
    assert said in body["detail"][0]["msg"]
    # Without hires fix they do not count.
    assert shared_server.draw(hr_additional_modules=["ae.safetensors"])["images"]


@pytest.mark.parametrize(
    "payload",
    [{"script_name": "Kitchen sink"}, {"alwayson_scripts": {"Kitchen sink": {"args": []}}}],
)
def test_an_unknown_script_is_refused_in_a1111s_words(
    shared_server: Server, payload: dict[str, Any]
) -> None:
    status, body = refused(shared_server, small(**payload))
    assert status == 422
    assert "Script 'Kitchen sink' not found" in body["errors"]


@pytest.mark.parametrize("body", [b"{", b"", b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(shared_server: Server, body: bytes) -> None:
    answer = shared_server.client.post(
        "/sdapi/v1/txt2img", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"error", "detail", "body", "errors", "message"}
    assert len(shared_server.draw()["images"]) == 1


def test_a_full_queue_answers_429(server: Server) -> None:
    server.engine.settings.update({"max_queued_jobs": 1})
    server.runner.gate_step = 1
    server.engine.submit(_request())
    assert server.runner.reached.acquire(timeout=10)
    server.engine.submit(_request())
    answer = server.client.post("/sdapi/v1/txt2img", json=small())
    assert answer.status_code == 429
    assert "max_queued_jobs" in answer.json()["errors"]


def _request() -> Any:
    from tests.engine.fakes import a_request

    return a_request()
