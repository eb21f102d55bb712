"""Thumbnails and metadata of model files."""

from __future__ import annotations

import json

from tests.api.conftest import Server
from tests.tiny_lora import write_lora


def test_a_thumbnail_is_the_picture_beside_a_model_file_and_no_other(server: Server) -> None:
    folder = server.paths.models / "Stable-diffusion"
    beside = folder / "tiny.preview.png"
    beside.write_bytes(b"picture")
    (folder / "private.png").write_bytes(b"no model's")
    get = server.client.get
    covers = get("/sd_extra_networks/cover-images", params={"page": "checkpoints", "item": "tiny"})
    assert covers.json() == {"images": [str(beside)]}
    answer = get("/sd_extra_networks/thumb", params={"filename": str(beside)})
    assert (answer.status_code, answer.content) == (200, b"picture")
    assert answer.headers["Content-Type"] == "image/png"
    for name in (
        folder / "private.png",
        folder / "tiny.safetensors",
        "/etc/passwd",
        f"{folder}/../Stable-diffusion/tiny.preview.png",
        "",
    ):
        asked = get("/sd_extra_networks/thumb", params={"filename": str(name)})
        assert asked.status_code == 404, name


def test_metadata_is_what_a_lora_file_says_of_itself(server: Server) -> None:
    write_lora(
        server.paths.loras[0] / "style.safetensors",
        {"lora_unet_x_attn2_to_k": (320, 768)},
        metadata={"ss_output_name": "my style"},
    )
    server.client.post("/sdapi/v1/refresh-loras")
    ask = {"page": "lora", "item": "style"}
    answer = server.client.get("/sd_extra_networks/metadata", params=ask).json()
    assert json.loads(answer["metadata"]) == {"ss_output_name": "my style"}
    assert server.client.get("/sd_extra_networks/metadata").json() == {}
