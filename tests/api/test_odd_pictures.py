"""Odd pictures through every door that takes one: the right picture, or a 4xx that names the field.

A real engine over tiny networks draws; what a client sent goes through decoding, storing, a job and
back. The files are `odd_pictures.py`'s.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sdforge.core.paths import Paths
from sdforge.output.images import encode_image
from tests.api.conftest import make_models
from tests.api.odd_pictures import BAD, COLOURS, GOOD, HEIGHT, INFOTEXT, WIDTH, file_of
from tests.api.serving import drawing
from tests.tiny_control import make_controlnet

Pixels = npt.NDArray[np.uint8]
DRAWN = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64, "seed": 5, "cfg_scale": 1}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[TestClient]:
    data = tmp_path_factory.mktemp("odd")
    make_models(data, tiny_checkpoint)
    make_controlnet(Paths.under(data).controlnets[0] / "canny.safetensors")
    with drawing(data) as client:
        yield client


def sent(data: bytes) -> str:
    return base64.b64encode(data).decode()


def answer(client: TestClient, route: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    response = client.post(route, json=payload)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def pixels_of(encoded: str) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


def off(made: Pixels, wanted: Pixels) -> int:
    assert made.shape == wanted.shape
    return int(np.abs(made.astype(int) - wanted).max())


@pytest.mark.parametrize("name", GOOD)
def test_the_right_picture_comes_through_every_door(client: TestClient, name: str) -> None:
    data, wanted, most = GOOD[name]
    corner = np.zeros((HEIGHT, WIDTH), np.uint8)
    corner[-8:, -8:] = 255

    # img2img: what is not masked is the picture itself, at its own size.
    payload = DRAWN | {"init_images": [sent(data)], "mask": sent(file_of(Image.fromarray(corner))),
                       "mask_blur": 0}  # fmt: skip
    drawn = pixels_of(answer(client, "/sdapi/v1/img2img", payload)["images"][0]).copy()
    drawn[corner > 0] = wanted[corner > 0]
    assert off(drawn, wanted) <= most

    extras = answer(client, "/sdapi/v1/extra-single-image", {"image": sent(data)})
    assert off(pixels_of(extras["image"]), wanted) <= most

    # A ControlNet shows what it sees; at the picture's own size that is the picture.
    unit = {"model": "canny", "module": "none", "image": sent(data), "resize_mode": 0}
    payload = DRAWN | {"width": WIDTH, "height": HEIGHT,
                       "alwayson_scripts": {"ControlNet": {"args": [unit]}}}  # fmt: skip
    _, seen = answer(client, "/sdapi/v1/txt2img", payload)["images"]
    assert off(pixels_of(seen), wanted) <= most

    assert answer(client, "/sdapi/v1/png-info", {"image": sent(data)})["info"] == ""


def masks() -> dict[str, bytes]:
    """Return files that mark the left half, each in a way of its own."""
    half = np.zeros((HEIGHT, WIDTH), np.uint8)
    half[:, : WIDTH // 2] = 255
    grey = Image.fromarray(half)
    palette = grey.convert("P")
    exif = Image.Exif()
    exif[0x0112] = 3
    upside_down = grey.transpose(Image.Transpose.ROTATE_180)
    clear = Image.new("RGBA", grey.size)
    clear.putalpha(grey)
    black = Image.new("L", grey.size)
    return {
        "grey": file_of(grey),
        "black and white": file_of(grey.convert("1")),
        "16 bits": file_of(Image.fromarray(half.astype(np.uint16) * 257)),
        "palette": file_of(palette),
        "cmyk": file_of(grey.convert("CMYK"), "JPEG", quality=98),
        "transparent": file_of(clear),
        "first frame": file_of(palette, "GIF", save_all=True, append_images=[black.convert("P")]),
        "turned": file_of(upside_down, exif=exif),
        "larger": file_of(grey.resize((WIDTH * 4, HEIGHT * 4), Image.Resampling.NEAREST)),
        "two pixels": file_of(grey.resize((2, 1), Image.Resampling.NEAREST)),
    }


@pytest.mark.parametrize(("name", "mask"), masks().items(), ids=masks())
def test_a_mask_of_any_kind_marks_what_it_shows(client: TestClient, name: str, mask: bytes) -> None:
    payload = DRAWN | {
        "init_images": [sent(file_of(COLOURS))], "mask": sent(mask), "mask_blur": 0,
        "denoising_strength": 1.0, "inpainting_fill": 2,
    }  # fmt: skip
    drawn = pixels_of(answer(client, "/sdapi/v1/img2img", payload)["images"][0]).astype(int)
    changes = np.abs(drawn - np.asarray(COLOURS)).max(-1)
    # Two pixels are enlarged smoothly: where they meet is where their half ends.
    assert changes[:, WIDTH // 2 :].max() == 0
    assert (changes[:, : WIDTH // 2] > 0).mean() > 0.9


def test_a_single_pixel_is_a_picture(client: TestClient) -> None:
    pixel = sent(file_of(Image.new("RGB", (1, 1), "red")))
    for mode in range(4):
        payload = DRAWN | {"init_images": [pixel], "resize_mode": mode}
        made = pixels_of(answer(client, "/sdapi/v1/img2img", payload)["images"][0])
        assert made.shape == (64, 64, 3)
    payload = DRAWN | {"init_images": [pixel], "mask": pixel, "inpaint_full_res": True}
    assert pixels_of(answer(client, "/sdapi/v1/img2img", payload)["images"][0]).shape[2] == 3
    payload = {"image": pixel, "upscaler_1": "Nearest", "upscaling_resize": 3}
    made = pixels_of(answer(client, "/sdapi/v1/extra-single-image", payload)["image"])
    assert (made == (255, 0, 0)).all() and made.shape == (3, 3, 3)
    payload = {"controlnet_module": "canny", "controlnet_input_images": [pixel]}
    (seen,) = answer(client, "/controlnet/detect", payload)["images"]
    assert pixels_of(seen).max() == 0


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1)])
def test_a_line_of_pixels_takes_no_more_than_any_picture(
    client: TestClient, shape: tuple[int, int]
) -> None:
    """In its own proportions it would be 64 wide and six million long, or the other way round."""
    line = sent(file_of(Image.new("RGB", shape, "teal")))
    for mode in range(4):
        payload = DRAWN | {"init_images": [line], "resize_mode": mode, "denoising_strength": 0.1,
                           "override_settings": {"upscaler_for_img2img": "Nearest"}}  # fmt: skip
        made = pixels_of(answer(client, "/sdapi/v1/img2img", payload)["images"][0])
        assert made.shape == (64, 64, 3)
    for mode in ("Just Resize", "Crop and Resize", "Resize and Fill"):
        unit = {"model": "canny", "module": "canny", "image": line, "resize_mode": mode,
                "pixel_perfect": True}  # fmt: skip
        payload = DRAWN | {"alwayson_scripts": {"ControlNet": {"args": [unit]}}}
        assert len(answer(client, "/sdapi/v1/txt2img", payload)["images"]) == 2


def doors(data: str) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Return every route that takes a picture, a payload, and what errors call the picture."""
    good = sent(file_of(COLOURS))
    unit = {"model": "canny", "module": "none"}

    def control(**pictures: str) -> dict[str, Any]:
        return DRAWN | {"alwayson_scripts": {"ControlNet": {"args": [unit | pictures]}}}

    return {
        "init_images": ("/sdapi/v1/img2img", DRAWN | {"init_images": [data]}, "init_images"),
        "mask": ("/sdapi/v1/img2img", DRAWN | {"init_images": [good], "mask": data}, "mask"),
        "firstpass": ("/sdapi/v1/txt2img", DRAWN | {"enable_hr": True, "firstpass_image": data,
                      "denoising_strength": 0.5}, "firstpass_image"),
        "control": ("/sdapi/v1/txt2img", control(image=data), "controlnet[0].image"),
        "control mask": ("/sdapi/v1/txt2img", control(image=good, mask=data),
                         "controlnet[0].mask_image"),
        "detect": ("/controlnet/detect", {"controlnet_input_images": [data]},
                   "controlnet_input_images[0]"),
        "extras": ("/sdapi/v1/extra-single-image", {"image": data}, "image"),
        "extras batch": ("/sdapi/v1/extra-batch-images",
                         {"imageList": [{"data": good, "name": "a"}, {"data": data, "name": "b"}]},
                         "imageList"),
    }  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_a_4xx_that_names_the_field(client: TestClient, name: str) -> None:
    data = sent(BAD[name])
    for door, (route, payload, field) in doors(data).items():
        refused = client.post(route, json=payload)
        assert refused.status_code == 422, (door, refused.text)
        assert field in refused.text, (door, refused.text)
        assert "Traceback" not in refused.text and "/sdforge/" not in refused.text
    refused = client.post("/api/v1/inputs", content=BAD[name])
    assert refused.status_code == 422 and "picture" in refused.text
    # png-info looks for texts, not for pixels: it finds none, or says that this is no picture.
    asked: httpx.Response = client.post("/sdapi/v1/png-info", json={"image": data})
    assert asked.status_code == 422 or asked.json()["info"] == ""


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_an_infotext_is_read_out_of_every_format_and_out_of_half_a_file(
    client: TestClient, format: str
) -> None:
    data = encode_image(np.asarray(COLOURS), format, infotext=INFOTEXT)
    whole = answer(client, "/sdapi/v1/png-info", {"image": sent(data)})
    assert whole["info"] == INFOTEXT
    assert whole["parameters"]["Seed"] == "17"
    half = client.post("/sdapi/v1/png-info", json={"image": sent(data[:-20])})
    assert half.status_code == 200


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "payload",
    [
        {"mask": "@mask", "inpaint_full_res": True, "mask_blur": 4},
        {"mask": "@mask", "inpaint_full_res": False, "resize_mode": 3},
        {"resize_mode": 2},
    ],
    ids=["only masked", "whole, latent upscale", "no mask"],
)
def test_64_megapixels_are_redrawn_in_bounded_memory(
    tmp_path: Path, tiny_checkpoint: Path, payload: dict[str, Any]
) -> None:
    """A server in a process of its own; 256 MiB is what such a picture takes as RGBA.

    Where only the masked part is drawn the result has 64 megapixels too.
    """
    make_models(tmp_path, tiny_checkpoint)
    Image.new("RGBA", (8192, 8192), (10, 20, 30, 200)).save(
        tmp_path / "picture", "PNG", compress_level=1
    )
    mask = Image.new("L", (8192, 8192))
    mask.paste(255, (90, 90, 8100, 8100))
    mask.save(tmp_path / "mask", "PNG", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-m", "tests.api.peak_memory", str(tmp_path), json.dumps(payload)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, peak = map(int, done.stdout.split()[-2:])
    assert peak - before < 9 * 256 * 2**20
