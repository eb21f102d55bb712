"""/api/v1/downloads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.conftest import Server, make_models, make_server
from tests.hub import LoopbackHub, serving


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with serving() as served:
        yield served


@pytest.fixture
def fetching(hub: LoopbackHub, tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Server]:
    """A server that may fetch files of the hub."""
    make_models(tmp_path, tiny_checkpoint)
    server = make_server(tmp_path, {"hub_downloads": True, "hub_endpoint": hub.endpoint})
    yield server
    server.engine.close()


def test_a_fetched_checkpoint_is_listed(
    hub: LoopbackHub, fetching: Server, tiny_checkpoint: Path
) -> None:
    named = hub.put("o/n/new one.safetensors", tiny_checkpoint.read_bytes())
    answer = fetching.client.post("/api/v1/downloads", json={"file": named})
    assert answer.status_code == 202, answer.text
    number = answer.json()["id"]
    row = answer.json()
    until = time.monotonic() + 120
    while row["state"] in ("waiting", "running") and time.monotonic() < until:
        time.sleep(0.02)
        (row,) = fetching.client.get("/api/v1/downloads").json()["downloads"]
    assert (row["state"], row["done_bytes"]) == ("done", tiny_checkpoint.stat().st_size)
    titles = [row["model_name"] for row in fetching.client.get("/sdapi/v1/sd-models").json()]
    assert "new one" in titles
    assert fetching.client.delete(f"/api/v1/downloads/{number}").status_code == 200
    assert fetching.client.get("/api/v1/downloads").json()["downloads"] == []
    assert fetching.client.delete(f"/api/v1/downloads/{number}").status_code == 404


def test_names_that_lead_elsewhere_are_refused(fetching: Server) -> None:
    for body in (
        {"file": "hf:o/n/../../x.safetensors"},
        {"file": "http://169.254.169.254/latest/x.safetensors"},
        {"file": "hf:o/n/x.ckpt"},
        {"file": "hf:o/n/tiny.safetensors"},
        {"file": "hf:o/n/x.gguf", "kind": "../.."},
        {},
    ):
        answer = fetching.client.post("/api/v1/downloads", json=body)
        assert answer.status_code == 422, (body, answer.text)


def test_a_server_that_was_not_asked_to_fetches_nothing(server: Server) -> None:
    assert server.client.get("/api/v1/downloads").json()["enabled"] is False
    answer = server.client.post("/api/v1/downloads", json={"file": "hf:o/n/x.gguf"})
    assert answer.status_code == 422
    assert "--hub-downloads" in answer.json()["message"]
    assert server.client.delete("/api/v1/downloads/1").status_code == 422
