"""The requests of A1111's own tests of its API, which a drop-in must answer with 200."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Server
from tests.api.contract.fields import PICTURE

TXT2IMG: dict[str, Any] = {
    "enable_hr": False, "denoising_strength": 0, "firstphase_width": 0, "firstphase_height": 0,
    "prompt": "example prompt", "styles": [], "seed": -1, "subseed": -1, "subseed_strength": 0,
    "seed_resize_from_h": -1, "seed_resize_from_w": -1, "batch_size": 1, "n_iter": 1, "steps": 3,
    "cfg_scale": 7, "width": 64, "height": 64, "restore_faces": False, "tiling": False,
    "negative_prompt": "", "eta": 0, "s_churn": 0, "s_tmax": 0, "s_tmin": 0, "s_noise": 1,
    "sampler_index": "Euler a",
}  # fmt: skip
IMG2IMG: dict[str, Any] = {
    "init_images": [PICTURE], "resize_mode": 0, "denoising_strength": 0.75, "mask": None,
    "mask_blur": 4, "inpainting_fill": 0, "inpaint_full_res": False, "inpaint_full_res_padding": 0,
    "inpainting_mask_invert": False, "width": 64, "height": 64, "steps": 3, "cfg_scale": 7,
    "override_settings": {}, "include_init_images": False, "sampler_index": "Euler a",
    "prompt": "example prompt", "styles": [], "seed": -1,
}  # fmt: skip
EXTRAS: dict[str, Any] = {
    "resize_mode": 0, "show_extras_results": True, "gfpgan_visibility": 0,
    "codeformer_visibility": 0, "codeformer_weight": 0, "upscaling_resize": 2,
    "upscaling_resize_w": 128, "upscaling_resize_h": 128, "upscaling_crop": True,
    "upscaler_1": "Lanczos", "upscaler_2": "None", "extras_upscaler_2_visibility": 0,
    "image": PICTURE,
}  # fmt: skip
COMPLEX = "((emphasis)), (emphasis1:1.1), [to:1], [from::2], [from:to:0.3], [alt|alt1]"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"negative_prompt": "example negative prompt"},
        {"prompt": COMPLEX},
        {"height": 128},
        {"enable_hr": True},
        {"tiling": True},
        {"restore_faces": True},
        {"sampler_index": "PLMS"},
        {"sampler_index": "DDIM"},
        {"sampler_index": "UniPC"},
        {"n_iter": 2},
        {"batch_size": 2},
    ],
    ids=str,
)
def test_txt2img(shared_server: Server, changes: dict[str, Any]) -> None:
    answer = shared_server.client.post("/sdapi/v1/txt2img", json=TXT2IMG | changes)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask": PICTURE},
        {"mask": PICTURE, "inpainting_mask_invert": True},
        {"script_name": "sd upscale", "script_args": ["", 8, "Lanczos", 2.0]},
    ],
    ids=["simple", "masked", "inverted", "sd upscale"],
)
def test_img2img(shared_server: Server, changes: dict[str, Any]) -> None:
    answer = shared_server.client.post("/sdapi/v1/img2img", json=IMG2IMG | changes)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("body", [EXTRAS, {"image": PICTURE}, {"image": PICTURE, "model": "clip"}])
def test_extras(shared_server: Server, body: dict[str, Any]) -> None:
    answer = shared_server.client.post("/sdapi/v1/extra-single-image", json=body)
    assert answer.status_code == 200, answer.text


def test_options_are_changed_and_changed_back(server: Server) -> None:
    def send_seed() -> bool:
        value: bool = server.client.get("/sdapi/v1/options").json()["send_seed"]
        return value

    old = send_seed()
    for wanted in (not old, old):
        answer = server.client.post("/sdapi/v1/options", json={"send_seed": wanted})
        assert answer.status_code == 200
        assert send_seed() == wanted


@pytest.mark.parametrize(
    "name",
    "cmd-flags samplers upscalers sd-models hypernetworks face-restorers realesrgan-models "
    "prompt-styles embeddings".split(),
)
def test_lists_answer(shared_server: Server, name: str) -> None:
    assert shared_server.client.get(f"/sdapi/v1/{name}").status_code == 200
