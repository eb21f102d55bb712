from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.api.conftest import Server


@pytest.fixture
def with_lora(server: Server) -> Server:
    """A server with one LoRA in a folder of its own."""
    folder = server.paths.models / "Lora" / "art"
    folder.mkdir(parents=True)
    tensors = {
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(1, 4, 1, 1),
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": torch.zeros(4, 1, 1, 1),
    }
    save_file(tensors, folder / "ink.safetensors", metadata={"ss_tag_frequency": '{"x": 1}'})
    server.client.post("/api/v1/cards/refresh")
    return server


def card(server: Server, kind: str = "lora") -> dict[str, Any]:
    rows: list[dict[str, Any]] = server.client.get("/api/v1/cards").json()
    return next(row for row in rows if row["kind"] == kind)


def test_a_card_has_notes_and_a_picture_beside_the_file(with_lora: Server) -> None:
    found = card(with_lora)
    assert (found["name"], found["insert"], found["preview"]) == (
        "art/ink.safetensors",
        "ink",
        None,
    )
    base = "/api/v1/cards/lora/art/ink.safetensors"
    assert with_lora.client.get(f"{base}/preview").status_code == 404
    notes = {"activation_text": "ink drawing", "preferred_weight": 0.7}
    changed = with_lora.client.post(f"{base}/notes", json=notes).json()
    assert changed["activation_text"] == "ink drawing"
    file = with_lora.paths.models / "Lora" / "art" / "ink.json"
    assert json.loads(file.read_text())["preferred weight"] == 0.7
    picture = io.BytesIO()
    Image.new("RGB", (1600, 800), "navy").save(picture, "JPEG")
    sent = with_lora.client.post(f"{base}/preview", content=picture.getvalue()).json()
    answer = with_lora.client.get(sent["preview"])
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (768, 384)
    assert with_lora.client.get(f"{base}/metadata").json() == {"ss_tag_frequency": {"x": 1}}


def test_cards_are_found_by_kind_and_words_and_one_by_one(with_lora: Server) -> None:
    get = with_lora.client.get
    folder = with_lora.paths.models / "hypernetworks"
    folder.mkdir(parents=True)
    (folder / "soft.pt").write_bytes(b"")
    (with_lora.paths.models / "Lora" / "art" / "ink.civitai.info").write_text(
        json.dumps({"trainedWords": ["ink drawing"], "modelId": 5, "id": 6})
    )
    with_lora.client.post("/api/v1/cards/refresh")

    def names(**asked: str) -> list[str]:
        return [row["title"] for row in get("/api/v1/cards", params=asked).json()]

    assert names(kind="hypernetwork") == ["soft"]
    assert names(search="DRAWING art") == ["ink"]
    assert names(search="drawing", kind="checkpoint") == []
    assert get("/api/v1/cards", params={"kind": "wheel"}).status_code == 422
    one = get("/api/v1/cards/lora/art/ink.safetensors").json()
    assert one == next(row for row in get("/api/v1/cards").json() if row["title"] == "ink")
    assert one["page"] == "https://civitai.com/models/5?modelVersionId=6"
    assert get("/api/v1/cards/hypernetwork/soft/metadata").json() == {}
    for name in ("nothing", "..%2F..%2Fconfig.json", "../../config.json"):
        assert get(f"/api/v1/cards/lora/{name}").status_code == 404


def test_wrong_cards_notes_and_pictures_are_refused(with_lora: Server) -> None:
    post = with_lora.client.post
    base = "/api/v1/cards/lora/art/ink.safetensors"
    assert post(f"{base}/preview", content=b"no picture").status_code == 422
    assert post(f"{base}/notes", json={"preferred_weight": "much"}).status_code == 422
    assert post("/api/v1/cards/lora/../../config/notes", json={}).status_code == 404
    assert post("/api/v1/cards/lora/nothing/notes", json={}).status_code == 404
    assert post("/api/v1/cards/wheel/ink/notes", json={}).status_code == 422
    assert not list(with_lora.paths.models.rglob("*.json"))


def test_what_is_typed_may_go_on_as_networks_wildcards_and_words(with_lora: Server) -> None:
    (with_lora.paths.tags).mkdir()
    (with_lora.paths.tags / "a.csv").write_text("ink_(medium),0,5\n")
    (with_lora.paths.wildcards).mkdir()
    (with_lora.paths.wildcards / "colours.txt").write_text("red\n")
    notes = {"activation_text": "ink drawing", "preferred_weight": 0.7}
    with_lora.client.post("/api/v1/cards/lora/art/ink.safetensors/notes", json=notes)

    def inserts(text: str) -> list[str]:
        answer = with_lora.client.get("/api/v1/completions", params={"text": text})
        return [row["insert"] for row in answer.json()]

    for text in ("<", "<lo", "<lora:i"):
        assert inserts(text) == ["<lora:ink:0.7> ink drawing"]
    assert inserts("<lora:zz") == []
    assert inserts("__col") == ["__colours__"]
    assert inserts("in") == [r"ink \(medium\)"]
