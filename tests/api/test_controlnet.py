"""ControlNet as A1111's clients see and use it: shapes of units, routes, and a whole request."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient

from sdforge.api.app import create_api
from sdforge.api.translate_control import control_units
from sdforge.core.control import CONTROL_FIRST, PROMPT_FIRST, ControlUnit
from sdforge.core.errors import InvalidRequest
from sdforge.core.inputs import InputImage
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, PipelineRunner
from sdforge.engine.inputs import InputFolder
from sdforge.models.library import Library
from tests.api.conftest import BASE_URL, Server, make_models, small
from tests.api.test_end_to_end import cpu
from tests.tiny_control import make_controlnet


def picture(width: int = 64, height: int = 64) -> str:
    """Return a bright box on black in base64."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE = picture()
STORED = InputImage("stored", 64, 64)


def units(sent: Any) -> tuple[ControlUnit, ...]:
    return control_units(sent, lambda data, field: STORED)


# What the client library webuiapi sends for a unit, and what Forge's page saves of one.
WEBUIAPI_UNIT = {
    "input_image": PICTURE, "image": PICTURE, "mask": None, "module": "none", "model": "canny",
    "weight": 1.0, "resize_mode": "Crop and Resize", "low_vram": False, "processor_res": -1,
    "threshold_a": -1, "threshold_b": -1, "guidance": 1.0, "guidance_start": 0.0,
    "guidance_end": 1.0, "control_mode": 0, "pixel_perfect": False, "hr_option": "Both",
    "enabled": True, "effective_region_mask": None,
}  # fmt: skip
FORGE_UNIT = {
    "enabled": True, "module": "None", "model": "canny", "image": None, "mask_image": None,
    "image_fg": None, "mask_image_fg": None, "generated_image": None, "input_mode": "simple",
    "use_preview_as_input": False, "batch_image_dir": "", "batch_mask_dir": "",
    "batch_input_gallery": None, "batch_mask_gallery": None, "control_mode": "Balanced",
    "inpaint_crop_input_image": False, "advanced_weighting": None, "pulid_mode": "Fidelity",
    "ipadapter_input": None, "union_control_type": "Unknown", "animatediff_batch": False,
    "batch_modifiers": [], "save_detected_map": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "sent",
    [
        {"args": [{"model": "canny", "image": PICTURE}]},
        {"args": {"model": "canny", "input_image": PICTURE}},
        [{"model": "canny", "image": f"data:image/png;base64,{PICTURE}"}],
        {"model": "canny", "image": {"image": PICTURE, "mask": None}},
        {"args": [{"model": "canny", "image": [PICTURE], "lowvram": True, "pulid_mode": "x"}]},
        {"args": [{"enabled": True, "model": "canny", "image": PICTURE, "low_vram": False}]},
        {"args": [{"enabled": False, "model": "x"}, {"model": "canny", "image": PICTURE}, None]},
        {"args": [{"model": "canny", "input_image": [{"image": PICTURE, "mask": ""}]}]},
        {"args": [{"model": "canny", "image": [PICTURE, None]}]},
        {"args": [{"model": "canny", "image": {"image": f"data:image/webp;base64,{PICTURE}"}}]},
        {"args": [{"enabled": "false", "model": "x"}, {"enabled": "true", "model": "canny",
         "image": PICTURE, "weight": None, "processor_res": None, "hr_option": None}]},
        {"args": [WEBUIAPI_UNIT], "is_enabled": True},
        {"args": [FORGE_UNIT | {"image": PICTURE}]},
        {"args": [{"model": "None", "module": "none", "image": ""}, {"model": "canny",
         "module": "None", "image": PICTURE, "control_mode": 0, "resize_mode": 1,
         "hr_option": "HiResFixOption.BOTH".partition(".")[2]}]},
    ],
)  # fmt: skip
def test_units_are_read_in_every_shape(sent: Any) -> None:
    assert units(sent) == (ControlUnit(model="canny", image=STORED),)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"control_mode": 1}, {"control_mode": PROMPT_FIRST}),
        ({"control_mode": "controlnet is more important"}, {"control_mode": CONTROL_FIRST}),
        ({"resize_mode": 0}, {"resize_mode": "Just Resize"}),
        ({"resize_mode": "Outer Fit (Shrink to Fit)"}, {"resize_mode": "Resize and Fill"}),
        ({"resize_mode": "Scale to Fit (Inner Fit)"}, {"resize_mode": "Crop and Resize"}),
        ({"resize_mode": 3}, {"resize_mode": "Just Resize"}),
        ({"resize_mode": 1}, {"resize_mode": "Crop and Resize"}),
        ({"resize_mode": 2}, {"resize_mode": "Resize and Fill"}),
        ({"resize_mode": "2"}, {"resize_mode": "Resize and Fill"}),
        ({"resize_mode": "just resize"}, {"resize_mode": "Just Resize"}),
        ({"resize_mode": "ResizeMode.RESIZE"}, {"resize_mode": "Just Resize"}),
        ({"resize_mode": "ResizeMode.INNER_FIT"}, {"resize_mode": "Crop and Resize"}),
        ({"resize_mode": "ResizeMode.OUTER_FIT"}, {"resize_mode": "Resize and Fill"}),
        ({"control_mode": 0}, {"control_mode": "Balanced"}),
        ({"control_mode": "My prompt is more important"}, {"control_mode": PROMPT_FIRST}),
        ({"control_mode": "ControlMode.CONTROL"}, {"control_mode": CONTROL_FIRST}),
        ({"hr_option": 0}, {"hires_option": "Both"}),
        ({"hr_option": 2}, {"hires_option": "High res only"}),
        ({"module": "None"}, {"module": "none"}),
        ({"module": "NONE"}, {"module": "none"}),
        ({"image": None}, {"image": None}),
        ({"image": [PICTURE, PICTURE]}, {"image": STORED, "mask": STORED}),
        ({"image": [{"image": PICTURE, "mask": PICTURE}]}, {"mask": STORED}),
        ({"guidance_start": 0.2, "guidance_end": 0.8}, {"guidance_start": 0.2}),
        ({"guidance": 0.5, "guidance_end": 0.8}, {"guidance_end": 0.8}),
        ({"pixel_perfect": True}, {"pixel_perfect": True}),
        ({"save_detected_map": False}, {"save_detected_map": False}),
        ({"resize_mode": "Inner Fit (Scale to Fit)"}, {"resize_mode": "Crop and Resize"}),
        ({"resize_mode": "Envelope (Outer Fit)"}, {"resize_mode": "Resize and Fill"}),
        ({"control_mode": 2}, {"control_mode": CONTROL_FIRST}),
        ({"control_mode": "ControlMode.PROMPT"}, {"control_mode": PROMPT_FIRST}),
        ({"hr_option": 1}, {"hires_option": "Low res only"}),
        ({"hr_option": "HiResFixOption.HIGH_RES_ONLY"}, {"hires_option": "High res only"}),
        ({"image": ""}, {"image": None}),
        ({"processor_res": -1}, {"processor_res": -1}),
        ({"module": "Canny"}, {"module": "canny"}),
        ({"module": "invert (from white bg & black line)"}, {"module": "invert"}),
        ({"hr_option": "High res only"}, {"hires_option": "High res only"}),
        ({"guidance": 0.5}, {"guidance_end": 0.5}),
        ({"module": "INPAINT"}, {"module": "inpaint_only"}),
        ({"mask": PICTURE}, {"mask": STORED}),
        ({"mask_image": PICTURE}, {"mask": STORED}),
        ({"image": {"image": PICTURE, "mask": PICTURE}}, {"mask": STORED}),
        ({"threshold_a": 64, "processor_res": 512.0}, {"threshold_a": 64, "processor_res": 512}),
        ({"weight": "0.5"}, {"weight": 0.5}),
    ],
)
def test_words_numbers_and_aliases(sent: dict[str, Any], expected: dict[str, Any]) -> None:
    (unit,) = units([{"model": "canny", "image": PICTURE} | sent])
    for name, value in expected.items():
        assert getattr(unit, name) == value


@pytest.mark.parametrize(
    "sent", ["canny", [3], [{"model": "x", "image": PICTURE, "control_mode": "strong"}],
             [{"model": "x", "image": 5}], [{"model": "x", "weight": "much"}]],
)  # fmt: skip
def test_what_cannot_be_read_is_named(sent: Any) -> None:
    with pytest.raises(InvalidRequest, match="controlnet"):
        units(sent)


def test_lists_and_detection_answer_as_the_extension_does(server: Server) -> None:
    client = server.client
    make_controlnet(server.paths.controlnets[0] / "my_canny.safetensors")
    save_file({"strange": torch.ones(1)}, server.paths.controlnets[0] / "strange.safetensors")
    listed = client.get("/controlnet/model_list").json()
    models = listed["model_list"]
    assert list(listed["refused"]) == ["strange.safetensors"]
    assert "strange.safetensors is no ControlNet" in listed["refused"]["strange.safetensors"]
    assert models[0] == "None"
    assert models[1].startswith("my_canny [")
    modules = client.get("/controlnet/module_list?alias_names=true").json()
    assert {"none", "canny", "invert", "tile_resample"} <= set(modules["module_list"])
    assert [one["value"] for one in modules["module_detail"]["canny"]["sliders"]] == [512, 100, 200]
    types = client.get("/controlnet/control_types").json()["control_types"]
    assert types["Canny"]["default_option"] == "canny"
    assert types["Canny"]["default_model"] == models[1]
    assert types["All"]["default_option"] == "none"
    assert client.get("/controlnet/settings").json() == {"control_net_unit_count": 3}
    assert client.get("/controlnet/version").json()["version"] >= 2
    assert "controlnet" in client.get("/sdapi/v1/scripts").json()["txt2img"]

    body = {"controlnet_module": "canny", "controlnet_input_images": [PICTURE],
            "controlnet_processor_res": 64}  # fmt: skip
    answer = client.post("/controlnet/detect", json=body).json()
    assert answer["info"] == "Success"
    edges = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))))
    assert edges.shape == (64, 64, 3)
    assert 0 < (edges == 255).mean() < 0.2
    short = {"controlnet_images" if "images" in key else key: one for key, one in body.items()}
    assert client.post("/controlnet/detect", json=short).json() == answer
    for change, words in (
        ({"controlnet_module": "nothing"}, "Module not available"),
        ({"controlnet_input_images": []}, "No image selected"),
    ):
        refused = client.post("/controlnet/detect", json=body | change)
        assert refused.status_code == 422
        assert words in refused.text


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[TestClient]:
    data = tmp_path_factory.mktemp("controlled")
    make_models(data, tiny_checkpoint)
    paths = Paths.under(data)
    make_controlnet(paths.controlnets[0] / "canny.safetensors")
    library = Library(paths)

    def make_runner() -> PipelineRunner:
        return PipelineRunner(library, probe_device=cpu, inputs=InputFolder(paths.inputs))

    engine = Engine(
        paths=paths, settings=SettingsStore(None), library=library, make_runner=make_runner,
        version="0.0-test",
    )  # fmt: skip
    engine.start()
    try:
        app = create_api(engine, paths=paths, flags={}, version="0.0-test")
        yield TestClient(app, base_url=BASE_URL)
    finally:
        engine.close()


def test_a_request_draws_with_it_and_shows_what_it_saw(real: TestClient) -> None:
    unit = {"model": "canny", "module": "canny", "image": PICTURE}
    plain = real.post("/sdapi/v1/txt2img", json=small(steps=1)).json()
    sent = small(steps=1, alwayson_scripts={"ControlNet": {"args": [unit]}})
    answer = real.post("/sdapi/v1/txt2img", json=sent).json()
    assert len(answer["images"]) == 2
    assert answer["images"][0] != plain["images"][0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][1]))))
    assert shown.shape == (64, 64, 3)
    quiet = real.post(
        "/sdapi/v1/txt2img",
        json=sent | {"override_settings": {"control_net_no_detectmap": True}},
    ).json()
    assert quiet["images"] == answer["images"][:1]
    info = json.loads(answer["info"])
    assert len(info["infotexts"]) == 1
    assert 'ControlNet 0: "Module: canny, Model: canny [' in info["infotexts"][0]

    unit |= {"model": "depth", "save_detected_map": True}
    sent = small(steps=1, alwayson_scripts={"controlnet": {"args": [unit]}})
    answer = real.post("/sdapi/v1/txt2img", json=sent).json()
    assert answer["images"] == plain["images"]
    (notice,) = json.loads(answer["info"])["notices"]
    assert "unit 0 was left out: no ControlNet named 'depth'" in notice


def test_units_that_cannot_serve_are_reported_and_the_others_act(real: TestClient) -> None:
    """By number, each with its reason; the picture is that of the unit that serves, alone."""
    good = {"model": "canny", "module": "canny", "image": PICTURE, "save_detected_map": False}
    bad = [
        (good | {"model": "none-such"}, "no ControlNet named 'none-such'"),
        (good | {"module": "openpose_full"}, "no preprocessor named 'openpose_full'"),
        (good | {"module": "CLIP-ViT-H (IPAdapter)"}, "none of CLIP's, for canny"),
        (good | {"image": None}, "a picture, or img2img with its own"),
    ]

    def drawn(*units: dict[str, Any]) -> dict[str, Any]:
        sent = small(steps=1, alwayson_scripts={"controlnet": {"args": list(units)}})
        answer = real.post("/sdapi/v1/txt2img", json=sent)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    alone = drawn(good)
    answer = drawn(good, *(unit for unit, _ in bad))
    assert answer["images"] == alone["images"]
    notices = json.loads(answer["info"])["notices"]
    assert len(notices) == len(bad)
    for number, (notice, (_, words)) in enumerate(zip(notices, bad, strict=True), start=1):
        assert f"unit {number} was left out" in notice
        assert words in notice
