"""The API over the real pipeline, with a tiny model of random weights."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sdforge.api.app import create_api
from sdforge.core.device import DeviceInfo
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, PipelineRunner
from sdforge.engine.inputs import InputFolder
from sdforge.models.library import Library
from tests.api.conftest import BASE_URL, make_models, small

GIB = 2**30


def cpu() -> DeviceInfo:
    """Return a processor with memory enough, whatever the machine has."""
    return DeviceInfo(
        kind="cpu", index=0, name="CPU", total_bytes=8 * GIB, supports_fp16=False,
        supports_bf16=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[TestClient]:
    data = tmp_path_factory.mktemp("real")
    make_models(data, tiny_checkpoint)
    paths = Paths.under(data)
    library = Library(paths)
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None),
        library=library,
        make_runner=lambda: PipelineRunner(
            library, probe_device=cpu, inputs=InputFolder(paths.inputs)
        ),
        version="0.0-test",
    )
    engine.start()
    yield TestClient(
        create_api(engine, paths=paths, flags={}, version="0.0-test"), base_url=BASE_URL
    )
    engine.close(timeout=30)


def picture(client: TestClient, **payload: object) -> tuple[bytes, dict[str, object]]:
    answer = client.post("/sdapi/v1/txt2img", json=small(**payload))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return base64.b64decode(body["images"][0]), json.loads(body["info"])


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(client: TestClient) -> None:
    first, info = picture(client, seed=1)
    assert Image.open(io.BytesIO(first)).size == (64, 64)
    assert info["sd_model_name"] == "other"
    assert picture(client, seed=1)[0] == first
    assert picture(client, seed=2)[0] != first


def test_unloading_gives_the_memory_back_and_the_next_job_loads_again(client: TestClient) -> None:
    before, _ = picture(client)
    held = client.get("/sdapi/v1/memory").json()["sdforge"]["components"]
    assert {part["role"] for part in held} >= {"denoiser", "vae", "text_encoder"}
    client.post("/sdapi/v1/unload-checkpoint")
    assert client.get("/sdapi/v1/memory").json()["sdforge"]["components"] == []
    assert picture(client)[0] == before


def test_a_vae_that_does_not_exist_fails_that_job_only(client: TestClient) -> None:
    payload = small(override_settings={"sd_vae": "nowhere.safetensors"})
    answer = client.post("/sdapi/v1/txt2img", json=payload)
    assert answer.status_code == 422
    assert "nowhere.safetensors" in answer.json()["errors"]
    picture(client)


def test_a_drawn_picture_can_be_drawn_over_enlarged_and_kept_outside_of_a_mask(
    client: TestClient,
) -> None:
    first, _ = picture(client, seed=1)
    source = np.asarray(Image.open(io.BytesIO(first)))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    file = io.BytesIO()
    mask.save(file, "PNG")
    sent, sent_mask = (base64.b64encode(data).decode() for data in (first, file.getvalue()))
    payload = {"init_images": [sent], "mask": sent_mask, "mask_blur": 0, "inpaint_full_res": False}
    answer = client.post("/sdapi/v1/img2img", json=small(**payload, inpainting_fill=1))
    assert answer.status_code == 200, answer.text
    made = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))))
    assert np.array_equal(made[:, 32:], source[:, 32:])
    assert not np.array_equal(made[:, :32], source[:, :32])

    large, info = picture(
        client, seed=1, enable_hr=True, hr_scale=1.5, denoising_strength=0.5,
        refiner_checkpoint="tiny", refiner_switch_at=0.5,
    )  # fmt: skip
    assert Image.open(io.BytesIO(large)).size == (96, 96)
    (infotext,) = info["infotexts"]  # type: ignore[misc]
    for part in ("Hires upscale: 1.5, ", "Hires upscaler: Latent", "Refiner switch at: 0.5"):
        assert part in infotext
