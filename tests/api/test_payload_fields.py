"""Every field of A1111's payloads acts, or says why not: the rows of `payload_effects`."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.api.app import create_api
from sdforge.api.schemas import Img2ImgRequest, Txt2ImgRequest
from sdforge.core.device import DeviceInfo
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, PipelineRunner
from sdforge.engine.inputs import InputFolder
from sdforge.models.library import Library
from tests.api.conftest import BASE_URL
from tests.api.payload_effects import ANSWER, EFFECTS, PICTURE, REFUSED, SAME, Effect
from tests.tiny_faces import write_faces

GIB = 2**30
STYLES = 'name,prompt,negative_prompt\nshiny,"{prompt}, made of glass",dull\n'
USUAL = {
    "prompt": "a cat", "negative_prompt": "a stone", "steps": 2, "width": 64, "height": 64,
    "seed": 5, "sampler_name": "Euler", "cfg_scale": 4,
}  # fmt: skip
WITH_PICTURE = {"init_images": ["@picture"], "denoising_strength": 0.8, "inpaint_full_res": False}


@dataclass
class Real:
    """A server over a model of random weights, and the answers that it gave."""

    client: TestClient
    engine: Engine
    paths: Paths
    pictures: Mapping[str, str]
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def post(self, route: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a payload; the same one is not sent twice."""
        key = json.dumps([route, payload], sort_keys=True)
        if key not in self.known:
            answer = self.client.post(f"/sdapi/v1/{route}", json=self.filled(payload))
            self.known[key] = {"status": answer.status_code, "id": answer.headers.get("X-Job-Id")}
            self.known[key] |= answer.json()
        return self.known[key]

    def filled(self, value: Any) -> Any:
        """Return a value with its pictures in place."""
        if isinstance(value, Mapping):
            return {key: self.filled(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.filled(one) for one in value]
        return self.pictures.get(value, value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Real]:
    paths = Paths.under(tmp_path_factory.mktemp("fields"))
    folder = paths.checkpoints[0]
    folder.mkdir(parents=True)
    shutil.copy(tiny_checkpoint, folder / "main.safetensors")
    write_checkpoint(folder / "other.safetensors", seed=1)
    vae = paths.vaes[0] / "other-vae.safetensors"
    write_checkpoint(vae, seed=3, prefix="first_stage_model.")
    paths.styles[0].write_text(STYLES)
    write_faces(paths.models, everywhere=True)
    library = Library(paths)
    cpu = DeviceInfo(
        kind="cpu", index=0, name="CPU", total_bytes=8 * GIB, supports_fp16=False,
        supports_bf16=False,
    )  # fmt: skip
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None, {"sd_model_checkpoint": "main.safetensors"}),
        library=library,
        make_runner=lambda: PipelineRunner(
            library, probe_device=lambda: cpu, inputs=InputFolder(paths.inputs)
        ),
        version="0.0-test",
    )
    engine.start()
    client = TestClient(
        create_api(engine, paths=paths, flags={}, version="0.0-test"), base_url=BASE_URL
    )
    yield Real(client, engine, paths, pictures())
    engine.close(timeout=30)


def pictures() -> dict[str, str]:
    """Return the pictures that rows name: two of a gradient, and a mask of the middle."""
    across = np.linspace(20, 230, 64)[None, :].repeat(64, 0)
    gradient = np.stack([across, across.T, 255 - across], -1).astype(np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:44, 20:48] = 255
    return {
        "@picture": encoded(gradient),
        "@other": encoded(np.ascontiguousarray(gradient[::-1, :, ::-1])),
        "@mask": encoded(mask),
    }


def encoded(pixels: np.ndarray[Any, Any]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pixels_of(answer: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))))


Shown = Callable[[Real, Mapping[str, Any], Mapping[str, Any]], bool]


def is_wider(real: Real, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return pixels_of(now).shape[1] > pixels_of(before).shape[1]


def is_taller(real: Real, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return pixels_of(now).shape[0] > pixels_of(before).shape[0]


def is_larger(real: Real, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return is_wider(real, now, before) and is_taller(real, now, before)


def has_two_pictures(real: Real, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return len(now["images"]) == 2 != len(before["images"])


def has_no_pictures(real: Real, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return not now["images"] and len(before["images"]) == 1


def is_saved(real: Real, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    saved = [bool(real.engine.get(one["id"]).images[0].path) for one in (now, before)]
    return saved == [True, False]


def has_the_id(real: Real, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return str(now["id"]).startswith("my-task") and now["id"] != before["id"]


def keeps_the_settings(real: Real, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    kept = real.engine.settings.current.samples_filename_pattern
    real.engine.settings.update({"samples_filename_pattern": ""})
    return kept == "[seed]-kept"


def echoes_the_pictures(real: Real, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return bool(now["parameters"]["init_images"]) and not before["parameters"]["init_images"]


def cases() -> list[Any]:
    return [
        pytest.param(effect, route, id=f"{route}-{effect.name}")
        for effect in EFFECTS
        for route in effect.routes
    ]


@pytest.mark.parametrize(("effect", "route"), cases())
def test_a_field_does_what_its_row_says(real: Real, effect: Effect, route: str) -> None:
    usual: dict[str, Any] = USUAL | (WITH_PICTURE if route == "img2img" else {})
    usual |= effect.base
    value = f"{effect.value}-{route}" if effect.name == "force_task_id" else effect.value
    now = real.post(route, usual | {effect.name: value})
    if effect.kind == REFUSED:
        assert now["status"] == 422
        assert effect.name in now["errors"]
        return
    before = real.post(route, usual | {effect.name: effect.instead})
    assert (now["status"], before["status"]) == (200, 200), (now, before)
    if effect.kind == ANSWER:
        shown: Shown = globals()[effect.shows]
        assert shown(real, now, before)
    else:
        is_same = np.array_equal(pixels_of(now), pixels_of(before))
        assert is_same == (effect.kind == SAME), effect.does
        assert effect.kind in (SAME, PICTURE)


@pytest.mark.parametrize(
    ("route", "model"), [("txt2img", Txt2ImgRequest), ("img2img", Img2ImgRequest)]
)
def test_there_is_one_row_for_every_field(route: str, model: type[Txt2ImgRequest]) -> None:
    rows = [effect.name for effect in EFFECTS if route in effect.routes]
    assert sorted(rows) == sorted(model.model_fields)
