"""Forge's request for Flux through REST, word by word, on tiny files of those formats."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import pytest
from PIL import Image
from starlette.testclient import TestClient

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.api.app import create_api
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, PipelineRunner
from sdforge.models.library import Library
from sdforge.output.images import read_infotext
from tests.api.conftest import BASE_URL
from tests.api.test_end_to_end import cpu
from tests.gguf_files import write_gguf

# The words of the article, unchanged.
REQUEST = {
    "sd_model_checkpoint": "FLUX/flux1-dev-Q4_0.gguf",
    "forge_unet_storage_dtype": "Automatic (fp16 LoRA)",
    "forge_additional_modules": [
        "models/VAE/ae.safetensors",
        "models/text_encoder/clip_l.safetensors",
        "models/text_encoder/t5xxl_fp8_e4m3fn.safetensors",
    ],
    "forge_inference_memory": 4096,
    "forge_preset": "flux",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    data = tmp_path_factory.mktemp("forge")
    models = data / "models"
    for folder in ("Stable-diffusion/FLUX", "VAE", "text_encoder"):
        (models / folder).mkdir(parents=True)
    whole = write_safetensors(data / "flux.safetensors", random_tensors(transformers.flux(), 1))
    write_gguf(whole, models / "Stable-diffusion" / "FLUX" / "flux1-dev-Q4_0.gguf", "Q4_0",
               arch="flux")  # fmt: skip
    made = {
        "VAE/ae": vae.vae(vae.SIXTEEN),
        "text_encoder/clip_l": text.clip(text.CLIP_L),
    }
    for number, (name, shapes) in enumerate(made.items(), start=2):
        path = models / f"{name}.safetensors"
        write_safetensors(path, random_tensors(shapes, number), "F32")
    t5 = random_tensors(text.t5(), 5)
    t5["encoder.embed_tokens.weight"] = t5["shared.weight"].clone()
    path = models / "text_encoder" / "t5xxl_fp8_e4m3fn.safetensors"
    write_safetensors(path, t5, "F8_E4M3")
    paths = Paths.under(data)
    library = Library(paths)
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None),
        library=library,
        make_runner=lambda: PipelineRunner(library, probe_device=cpu),
        version="0.0-test",
    )
    engine.start()
    yield TestClient(
        create_api(engine, paths=paths, flags={}, version="0.0-test"), base_url=BASE_URL
    )
    engine.close(timeout=30)


def test_the_request_of_the_article_draws(client: TestClient) -> None:
    answer = client.post("/sdapi/v1/options", json=REQUEST)
    assert answer.status_code == 200, answer.text
    options = client.get("/sdapi/v1/options").json()
    assert (options["forge_inference_memory"], options["forge_preset"]) == (4096, "flux")
    payload = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "cfg_scale": 1, "seed": 3}
    png = drawn(client, payload)
    assert Image.open(io.BytesIO(png)).size == (64, 64)
    said = read_infotext(png)
    assert "Module 1: ae, Module 2: clip_l, Module 3: t5xxl_fp8_e4m3fn" in said
    assert "Model: flux1-dev-Q4_0" in said

    # Within one request too, on a server that is set otherwise.
    assert client.post("/sdapi/v1/options", json={"forge_additional_modules": []}).is_success
    again = drawn(client, payload | {"override_settings": REQUEST})
    pixels = [Image.open(io.BytesIO(one)).convert("RGB").tobytes() for one in (png, again)]
    assert pixels[0] == pixels[1]


def drawn(client: TestClient, payload: dict[str, object]) -> bytes:
    answer = client.post("/sdapi/v1/txt2img", json=payload)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["images"][0])
