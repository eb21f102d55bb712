"""The app as a whole: what it documents, what it loads, what it tells of requests."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from typing import Any

import pytest

from sdforge.api.app import PREFIXES
from tests.api.conftest import Server, StartServer, small

A1111_ROUTES = """
POST txt2img img2img extra-single-image extra-batch-images png-info interrogate interrupt skip
POST options refresh-embeddings refresh-checkpoints refresh-vae create/embedding refresh-loras
POST create/hypernetwork train/embedding train/hypernetwork unload-checkpoint reload-checkpoint
GET progress options cmd-flags samplers schedulers upscalers latent-upscale-modes sd-models sd-vae
GET sd-modules hypernetworks face-restorers realesrgan-models prompt-styles embeddings memory
GET scripts script-info extensions loras
"""


def schema(server: Server) -> dict[str, Any]:
    answer = server.client.get("/openapi.json")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


def test_every_route_of_a1111_is_there(shared_server: Server) -> None:
    paths = schema(shared_server)["paths"]
    for line in A1111_ROUTES.strip().splitlines():
        method, *names = line.split()
        for name in names:
            assert method.lower() in paths[f"/sdapi/v1/{name}"], name


def test_every_documented_get_answers(server: Server) -> None:
    server.draw(force_task_id="one")
    sweep = {"id": "one", "request": small(), "axes": [{"axis": "Seed", "values": "1"}]}
    server.client.post("/api/v1/sweeps", json=sweep)
    server.client.get("/api/v1/sweeps/one/events")
    for path, methods in schema(server)["paths"].items():
        if "get" in methods:
            names = {"kind": "checkpoint", "name": "tiny.safetensors", "sweep_id": "one"}
            url = path.format(job_id="one", index=0, number=0, sha256="0" * 64, **names)
            parts = ("{sha256}", "/history/{number}", "/thumb", "{name}/preview")
            names_something = any(part in path for part in parts)
            expected = (404,) if names_something else (200, 204)
            assert server.client.get(url).status_code in expected, path


def test_every_route_says_what_it_does_and_has_an_id_of_its_own(shared_server: Server) -> None:
    routes = [
        route for methods in schema(shared_server)["paths"].values() for route in methods.values()
    ]
    assert all(route.get("description") for route in routes)
    assert all(route.get("tags") for route in routes)
    ids = [route["operationId"] for route in routes]
    assert len(ids) == len(set(ids))
    assert "post_sdapi_v1_txt2img" in ids


def test_all_routes_lie_under_the_prefixes_that_the_launcher_knows(shared_server: Server) -> None:
    assert all(path.startswith(PREFIXES) for path in schema(shared_server)["paths"])


def test_the_payload_is_documented(shared_server: Server) -> None:
    body = schema(shared_server)["components"]["schemas"]["Txt2ImgRequest"]["properties"]
    assert body["steps"]["default"] == 50
    assert body["sampler_name"]["description"]


def test_the_docs_page_loads_nothing_from_elsewhere(shared_server: Server) -> None:
    answer = shared_server.client.get("/docs")
    assert answer.status_code == 200
    assert not re.search(r"(?:src|href)\s*=\s*['\"]?(?:https?:)?//", answer.text)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_the_docs_pages_policy_allows_its_own_script_and_style(shared_server: Server) -> None:
    import base64
    import hashlib

    answer = shared_server.client.get("/docs")
    for tag in ("script", "style"):
        inline = re.search(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert inline is not None
        digest = base64.b64encode(hashlib.sha256(inline[1].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in answer.headers["Content-Security-Policy"]


def test_a_body_without_a_content_type_is_read_as_json(server: Server) -> None:
    answer = server.client.post("/sdapi/v1/options", content=b'{"jpeg_quality": 55}')
    assert answer.status_code == 200
    assert server.engine.settings.current.jpeg_quality == 55


def test_requests_are_logged_when_asked_for(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = start_server({"api_log": True}).client
    answer = client.get("/sdapi/v1/samplers")
    assert float(answer.headers["X-Process-Time"]) >= 0
    assert re.search(r"API 200 .* GET '/sdapi/v1/samplers'", caplog.text)


def test_requests_are_not_logged_otherwise(
    shared_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert "X-Process-Time" in shared_server.client.get("/sdapi/v1/samplers").headers
    assert "API 200" not in caplog.text


def test_importing_the_api_loads_neither_torch_nor_pillow_nor_gradio() -> None:
    code = (
        "import sys, json, sdforge.api.app\n"
        "names = ('torch', 'gradio', 'diffusers', 'transformers', 'PIL')\n"
        "print(json.dumps([name for name in names if name in sys.modules]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(result.stdout) == []
