"""Pictures to refer to: `reference_images`, and Forge Neo's script for them."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from sdforge.api.schemas import Img2ImgRequest, Txt2ImgRequest
from sdforge.api.translate import filled_in, generation_request
from sdforge.core.errors import InvalidRequest
from sdforge.core.extension import Extension
from sdforge.core.inputs import InputImage
from sdforge.core.registry import Registry
from sdforge.core.request import MOST_REFERENCES, GenerationRequest
from sdforge.engine.resolution import check_references
from tests.api.conftest import Server, small
from tests.engine.fakes import FakeCheckpoint, a_request

TITLE = "ImageStitch Integrated"


def picture(width: int = 8) -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, 8), (200, 30, 30)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def add_input(data: bytes, field: str) -> InputImage:
    shown = Image.open(io.BytesIO(data))
    return InputImage(f"{len(data):064d}", *shown.size)


def translated(kind: str = "txt2img", **values: Any) -> GenerationRequest:
    model = Img2ImgRequest if kind == "img2img" else Txt2ImgRequest
    none: Registry[Extension] = Registry("extension")
    payload = filled_in(model.model_validate(values))
    return generation_request(payload, none, kind=kind, add_input=add_input)


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
@pytest.mark.parametrize(
    ("values", "side"),
    [
        ({"reference_images": [picture(8), picture(16)]}, 0),
        ({"alwayson_scripts": {TITLE: {"args": [True, [picture(8), picture(16)], 1024]}}}, 1024),
        (
            {
                "alwayson_scripts": {
                    TITLE: {"args": [True, [[picture(8), None], [picture(16), ""]]]}
                }
            },
            0,
        ),
        ({"alwayson_scripts": {TITLE: [True, [picture(8), picture(16)]]}}, 0),
        (
            {
                "reference_images": [picture(8)],
                "alwayson_scripts": {"ImageStitch": {"images": [picture(16)], "max_dim": 512}},
            },
            512,
        ),
    ],
    ids=["native", "script", "gallery", "bare", "both"],
)
def test_pictures_come_in_their_order(kind: str, values: dict[str, Any], side: int) -> None:
    own = {"init_images": [picture(24)]} if kind == "img2img" else {}
    request = translated(kind, **own, **values)
    assert [image.width for image in request.references] == [8, 16]
    assert request.reference_side == side
    assert GenerationRequest.from_json(request.to_json()) == request
    assert set(request.references) < set(request.inputs) or kind == "txt2img"


def test_a_script_that_is_off_brings_none() -> None:
    request = translated(alwayson_scripts={TITLE: {"args": [False, [picture()], 1024]}})
    assert (request.references, request.reference_side) == ((), 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"reference_images": [picture()] * (MOST_REFERENCES + 1)}, "11 pictures"),
        ({"reference_images": ["no picture"]}, "reference_images"),
        ({"reference_images": [{"image": 1}]}, "a picture in base64"),
        ({"alwayson_scripts": {TITLE: {"args": "x"}}}, "longest side"),
        ({"alwayson_scripts": {TITLE: {"args": [True, [picture()], "wide"]}}}, "longest side"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        translated(**values)


def test_a_checkpoint_says_how_many_it_may_refer_to() -> None:
    image = InputImage("0" * 64, 8, 8)
    one, two = a_request(references=(image,)), a_request(references=(image,) * 2)
    drawn_over = a_request(references=(image,), init_images=(image,), denoising_strength=1.0)
    for request, refers, words in (
        (one, 0, "Kontext, Flux.2 and Qwen-Image-Edit"),
        (two, 1, "2 pictures"),
        (drawn_over, 1, "2 pictures"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            check_references(request, FakeCheckpoint("tiny.safetensors", refers=refers))
    for request in (two, drawn_over):
        check_references(request, FakeCheckpoint("klein.safetensors", refers=10))


def test_a_server_refuses_them_for_models_that_refer_to_none(shared_server: Server) -> None:
    answer = shared_server.client.post(
        "/sdapi/v1/txt2img", json=small() | {"reference_images": [picture()]}
    )
    assert answer.status_code == 422
    assert "reference_images" in answer.json()["errors"]
    link = {"reference_images": ["http://127.0.0.1/x.png"]}
    answer = shared_server.client.post("/sdapi/v1/txt2img", json=small() | link)
    assert answer.status_code == 422
    assert "api_enable_requests" in answer.json()["errors"]
    listed = shared_server.client.get("/sdapi/v1/scripts").json()
    assert "imagestitch integrated" in listed["txt2img"]
