"""POST /api/v1/estimate."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Server, small


def post(server: Server, path: str = "/api/v1/estimate", **payload: Any) -> Any:
    return server.client.post(path, json=small(**payload))


def test_a_txt2img_payload_is_answered_with_bytes_and_loads_nothing(shared_server: Server) -> None:
    before = list(shared_server.runner.loads)
    answer = post(shared_server)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) >= {
        "fits", "mode", "phases", "peak_bytes", "budget", "seconds", "reasons", "recommended",
        "alternatives",
    }  # fmt: skip
    for phase in body["phases"]:
        assert phase["peak_bytes"] == phase["weights_bytes"] + phase["working_bytes"]
    assert body["recommended"] == {"width": 64, "height": 64, "batch_size": 1}
    assert shared_server.runner.loads == before


def test_the_short_name_answers_the_same(shared_server: Server) -> None:
    short = post(shared_server, "/api/estimate", width=512, height=512).json()
    long = post(shared_server, width=512, height=512).json()
    assert [phase["working_bytes"] for phase in short["phases"]] == [
        phase["working_bytes"] for phase in long["phases"]
    ]


@pytest.mark.parametrize(
    ("payload", "status", "named"),
    [
        ({"width": "wide"}, 422, "width"),
        ({"steps": 0}, 422, "steps"),
        ({"sampler_name": "Oiler"}, 422, "sampler_name"),
        ({"override_settings": {"sd_model_checkpoint": "no-such"}}, 422, "sd_model_checkpoint"),
        ({"override_settings": {"forge_inference_memory": -1}}, 422, "forge_inference_memory"),
        ({"override_settings": {"forge_inference_memory": 1e9}}, 422, "forge_inference_memory"),
    ],
)
def test_what_txt2img_refuses_is_refused(
    shared_server: Server, payload: dict[str, Any], status: int, named: str
) -> None:
    answer = post(shared_server, **payload)
    assert answer.status_code == status, answer.text
    assert named in answer.json()["message"]


def test_the_status_tells_the_memory_mode_and_why(shared_server: Server) -> None:
    memory = shared_server.client.get("/api/v1/status").json()["memory"]
    assert memory["setting"] == "auto"
    assert memory["mode"] in ("normal", "medvram", "lowvram")
    assert memory["reason"]
    assert memory["total_bytes"] > 0
