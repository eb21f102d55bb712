"""ADetailer over HTTP on the model that ships, with a detector made by hand that sees red."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sdforge.api.app import create_api
from sdforge.core.device import probe
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, PipelineRunner
from sdforge.engine.inputs import InputFolder
from sdforge.models.library import Library
from tests.api.conftest import BASE_URL
from tests.tiny_detectors import write_detector

Pixels = npt.NDArray[np.uint8]
MODEL = {"ad_model": "red.pt", "ad_mask_blur": 0, "ad_dilate_erode": 0}
LARGEST = MODEL | {"ad_mask_k": 1, "ad_prompt": "a frog", "ad_denoising_strength": 0.8}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    paths = Paths.under(tmp_path_factory.mktemp("detailer"))
    write_detector(paths.models, "red.pt")
    library = Library(paths)
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None),
        library=library,
        make_runner=lambda: PipelineRunner(
            library, probe_device=lambda: probe(force_cpu=True), inputs=InputFolder(paths.inputs)
        ),
        version="0.0-test",
    )
    engine.start()
    yield TestClient(
        create_api(engine, paths=paths, flags={}, version="0.0-test"), base_url=BASE_URL
    )
    engine.close(timeout=30)


def asked(*arguments: Any, **payload: Any) -> dict[str, Any]:
    drawn = {"steps": 6, "width": 128, "height": 128, "seed": 5, "sampler_name": "Euler"}
    scripts = {"ADetailer": {"args": list(arguments)}} if arguments else {}
    return drawn | {"prompt": "red circle", "alwayson_scripts": scripts} | payload


def post(client: TestClient, *arguments: Any, **payload: Any) -> tuple[Pixels, str]:
    answer = client.post("/sdapi/v1/txt2img", json=asked(*arguments, **payload))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    picture = Image.open(io.BytesIO(base64.b64decode(body["images"][0])))
    return np.asarray(picture), json.loads(body["info"])["infotexts"][0]


@pytest.fixture(scope="module")
def plain(client: TestClient) -> Pixels:
    return post(client)[0]


def test_what_the_detector_sees_is_drawn_again_by_its_own_prompt(
    client: TestClient, plain: Pixels
) -> None:
    made, text = post(client, True, False, LARGEST)

    differs = (made != plain).any(-1)
    rows, columns = np.nonzero(differs)
    # One box of the detector: 24 places of 8 pixels where the picture is shown at 640.
    assert 0 < np.ptp(columns) <= 39 and 0 < np.ptp(rows) <= 39
    frog = made[differs].astype(int)
    red = plain[differs].astype(int)
    assert (frog[:, 0] - frog[:, 1]).mean() < (red[:, 0] - red[:, 1]).mean() - 30
    for key in (
        "ADetailer model: red.pt", "ADetailer prompt: a frog", "ADetailer confidence: 0.3",
        "ADetailer dilate erode: 0", "ADetailer mask blur: 0", "ADetailer mask only top k: 1",
        "ADetailer denoising strength: 0.8", "ADetailer inpaint only masked: True",
        "ADetailer inpaint padding: 32",
    ):  # fmt: skip
        assert key in text

    # The text makes the picture again, and switches may be left out.
    again, _ = post(client, infotext=text)
    assert np.array_equal(again, made)
    short, _ = post(client, LARGEST)
    assert np.array_equal(short, made)


def test_what_asks_for_nothing_changes_nothing(client: TestClient, plain: Pixels) -> None:
    for arguments in ([False, False, LARGEST], [True, False, {"ad_model": "None"}]):
        made, text = post(client, *arguments)
        assert np.array_equal(made, plain) and "ADetailer" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([{"ad_model": "face_yolov8n.pt"}], ["face_yolov8n.pt", "adetailer", "red.pt"]),
        ([MODEL | {"ad_confidence": 2}], ["ad_confidence", "from 0 to 1"]),
        ([MODEL | {"ad_colour": 2}], ["ad_colour", "ad_mask_blur"]),
        ([MODEL | {"ad_use_sampler": True, "ad_sampler": "Eular"}], ["Eular", "Euler"]),
        ([MODEL | {"ad_use_checkpoint": True, "ad_checkpoint": "gone"}], ["gone"]),
        ([MODEL | {"ad_use_vae": True, "ad_vae": "gone"}], ["gone"]),
        ([MODEL | {"ad_controlnet_model": "inpaint"}], ["ad_controlnet_model"]),
        ([MODEL] * 3, ["3 tabs"]),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_is_drawn(
    client: TestClient, arguments: list[Any], words: list[str]
) -> None:
    answer = client.post("/sdapi/v1/txt2img", json=asked(True, False, *arguments))

    assert answer.status_code == 422
    assert all(word in answer.text for word in words), answer.text


def test_img2img_can_be_skipped_so_that_only_details_are_drawn(
    client: TestClient, plain: Pixels
) -> None:
    file = io.BytesIO()
    Image.fromarray(plain).save(file, "PNG")
    init = [base64.b64encode(file.getvalue()).decode()]
    body = asked(True, True, LARGEST, init_images=init, steps=6)
    answer = client.post("/sdapi/v1/img2img", json=body)
    assert answer.status_code == 200, answer.text
    made = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))))

    differs = (made != plain).any(-1)
    assert 0 < differs.sum() <= 41 * 41


def test_an_estimate_and_the_lists_know_of_it(client: TestClient) -> None:
    unit = LARGEST | {
        "ad_use_inpaint_width_height": True, "ad_inpaint_width": 256, "ad_inpaint_height": 192,
    }  # fmt: skip
    found = client.post("/api/v1/estimate", json=asked(True, False, unit)).json()
    sizes = {one["name"]: (one["width"], one["height"]) for one in found["passes"]}
    assert sizes == {"detail": (256, 192), "base": (128, 128)}
    assert found["seconds"] > client.post("/api/v1/estimate", json=asked()).json()["seconds"]

    assert "adetailer" in client.get("/sdapi/v1/scripts").json()["txt2img"]
    assert client.get("/adetailer/v1/ad_model").json() == {"ad_model": ["red.pt"]}


def test_a_sweep_varies_what_is_drawn_again(client: TestClient) -> None:
    body = {
        "request": asked(True, False, LARGEST),
        "axes": [{"axis": "[ADetailer] Inpaint denoising strength", "values": "0.2, 0.8"}],
    }
    answer = client.post("/api/v1/sweeps/dry-run", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["cells"] == 2
