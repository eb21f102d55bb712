"""Listings of LoRA and embeddings, in A1111's form."""

import torch
from safetensors.torch import save_file

from tests.api.conftest import StartServer
from tests.tiny_lora import write_lora


def test_loras_are_listed_as_a1111_does_after_a_refresh(start_server: StartServer) -> None:
    server = start_server()
    assert server.client.get("/sdapi/v1/loras").json() == []
    path = write_lora(
        server.paths.loras[0] / "sub" / "style.safetensors",
        {"lora_unet_x_attn2_to_k": (320, 768)},
        metadata={"ss_output_name": "my style", "ss_tag_frequency": '{"a": {"cat": 1}}'},
    )
    assert server.client.post("/sdapi/v1/refresh-loras").json() is None
    assert server.client.get("/sdapi/v1/loras").json() == [
        {
            "name": "style",
            "alias": "my style",
            "path": str(path),
            "metadata": {"ss_output_name": "my style", "ss_tag_frequency": {"a": {"cat": 1}}},
            "family": "sd1",
            "error": None,
        }
    ]


def test_embeddings_are_listed_as_loaded_and_skipped(start_server: StartServer) -> None:
    server = start_server()
    nothing = {"loaded": {}, "skipped": {}}
    assert server.client.get("/sdapi/v1/embeddings").json() == nothing
    folder = server.paths.embeddings[0]
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.ones(8, 768)}, folder / "thing.safetensors")
    (folder / "bad.pt").write_bytes(b"x")
    assert server.client.post("/sdapi/v1/refresh-embeddings").json() is None
    listed = server.client.get("/sdapi/v1/embeddings").json()
    unknown = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
    assert listed["loaded"] == {"thing": {**unknown, "shape": 768, "vectors": 8}}
    assert "damaged" in listed["skipped"]["bad"]["reason"]


def test_hypernetworks_are_listed_with_their_paths(start_server: StartServer) -> None:
    server = start_server()
    assert server.client.get("/sdapi/v1/hypernetworks").json() == []
    path = server.paths.hypernetworks[0] / "sub" / "anime.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"read when a prompt names it")
    listed = server.client.get("/sdapi/v1/hypernetworks").json()
    assert listed == [{"name": "anime", "path": str(path)}]
