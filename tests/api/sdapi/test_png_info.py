"""POST /sdapi/v1/png-info."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from tests.api.conftest import Server
from tests.output.test_foreign import PLAIN


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_picture_of_ours_tells_how_it_was_made(shared_server: Server, prefix: str) -> None:
    body = shared_server.draw(prompt="a green frog", seed=9, steps=3)
    answer = shared_server.client.post(
        "/sdapi/v1/png-info", json={"image": prefix + body["images"][0]}
    )
    found = answer.json()
    assert found["info"].startswith("a green frog")
    assert found["parameters"]["Prompt"] == "a green frog"
    assert found["parameters"]["Seed"] == "9"
    assert (found["parameters"]["Size-1"], found["parameters"]["Size-2"]) == ("64", "64")


@pytest.mark.parametrize("image", ["", "not base64!", "aGVsbG8=", "data:image/png;base64,"])
def test_what_is_no_picture_is_refused(shared_server: Server, image: str) -> None:
    answer = shared_server.client.post("/sdapi/v1/png-info", json={"image": image})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "image"]


def test_a_missing_picture_is_named(shared_server: Server) -> None:
    answer = shared_server.client.post("/sdapi/v1/png-info", json={})
    assert answer.status_code == 422
    assert "image" in answer.json()["errors"]


def test_links_are_not_followed(shared_server: Server) -> None:
    answer = shared_server.client.post(
        "/sdapi/v1/png-info", json={"image": "http://127.0.0.1/x.png"}
    )
    assert answer.status_code == 422


def test_a_picture_of_another_program_is_translated_or_told_why_not(shared_server: Server) -> None:
    def sent(graph: str) -> dict[str, Any]:
        info, file = PngImagePlugin.PngInfo(), io.BytesIO()
        info.add_text("prompt", graph)
        Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
        image = base64.b64encode(file.getvalue()).decode()
        answer = shared_server.client.post("/sdapi/v1/png-info", json={"image": image})
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    found = sent(json.dumps(PLAIN))
    assert found["info"].startswith("a red fox, snow\nNegative prompt: blurry\nSteps: 30, ")
    assert (found["parameters"]["Seed"], found["parameters"]["Size-1"]) == ("42", "832")
    assert found["note"] == "Read from what ComfyUI wrote."
    assert json.loads(found["items"]["prompt"]) == PLAIN
    broken = sent('{"3": ')
    assert broken["info"] == ""
    assert broken["note"].startswith("ComfyUI's data is no whole JSON")
