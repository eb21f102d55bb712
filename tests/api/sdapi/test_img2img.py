"""POST /sdapi/v1/img2img and the fields of second passes: A1111's payload, answer and refusals."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from sdforge.engine import JobStatus
from tests.api.conftest import Server, small


def picture(size: tuple[int, int] = (64, 64), mode: str = "RGB") -> str:
    file = io.BytesIO()
    Image.new(mode, size, 77).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def post(server: Server, **payload: Any) -> Any:
    return server.client.post("/sdapi/v1/img2img", json=small(**payload))


def test_the_answer_is_a1111s_without_the_pictures_that_were_sent(server: Server) -> None:
    answer = post(server, init_images=[picture()], mask=picture(), denoising_strength=0.4)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert len(body["images"]) == 1
    parameters, info = body["parameters"], json.loads(body["info"])
    assert (parameters["init_images"], parameters["mask"]) == (None, None)
    assert "include_init_images" not in parameters
    assert (parameters["resize_mode"], parameters["mask_blur"]) == (0, None)
    assert info["denoising_strength"] == 0.4
    assert "Denoising strength: 0.4" in info["infotexts"][0]
    assert "Mask blur: 4" in info["infotexts"][0]
    job = server.engine.jobs()[0]
    assert (job.kind, len(job.request.init_images)) == ("img2img", 1)
    assert answer.headers["X-Job-Id"].startswith("task(img2img-")


def test_pictures_are_sent_back_when_asked_for_and_prefixes_pass(server: Server) -> None:
    sent = f"data:image/png;base64,{picture()}"
    body = post(server, init_images=[sent], include_init_images=True).json()
    assert body["parameters"]["init_images"] == [sent]
    assert body["parameters"]["denoising_strength"] == 0.75


def test_saved_pictures_go_into_the_folder_of_img2img(server: Server) -> None:
    assert post(server, init_images=[picture()], save_images=True).status_code == 200
    assert list((server.paths.data / "outputs" / "img2img-images").rglob("*.png"))


@pytest.mark.parametrize("images", [None, []])
def test_without_a_picture_it_is_a1111s_404(shared_server: Server, images: object) -> None:
    answer = post(shared_server, init_images=images)
    assert answer.status_code == 404
    assert answer.json()["detail"] == "Init image not found"


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"init_images": ["no picture"]}, "init_images"),
        ({"init_images": [picture()[:60]]}, "init_images"),
        ({"init_images": [5]}, "init_images"),
        ({"init_images": [""]}, "init_images"),
        ({"init_images": ["https://example.org/a.png"]}, "init_images"),
        ({"init_images": [picture()] * 3, "batch_size": 2}, "init_images"),
        ({"init_images": [picture()], "mask": "x"}, "mask"),
        ({"init_images": [picture()], "mask": "http://127.0.0.1:7860/"}, "mask"),
        ({"init_images": [picture()], "denoising_strength": 1.5}, "denoising_strength"),
        ({"init_images": [picture()], "resize_mode": 4}, "resize_mode"),
        ({"init_images": [picture()], "inpainting_fill": -1}, "inpainting_fill"),
        ({"init_images": [picture()], "mask_blur": -1}, "mask_blur_x"),
        ({"init_images": [picture()], "refiner_checkpoint": "nowhere"}, "refiner_checkpoint"),
    ],
)
def test_what_cannot_be_used_is_named(
    shared_server: Server, payload: dict[str, Any], field: str
) -> None:
    answer = post(shared_server, **payload)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]


def test_a_picture_larger_than_allowed_is_refused(start_server: Any) -> None:
    server = start_server(max_input_pixels=5000)
    answer = post(server, init_images=[picture((80, 80))])
    assert answer.status_code == 422
    assert "5000 pixels" in answer.json()["errors"]


def test_fields_of_the_mask_reach_the_request(server: Server) -> None:
    post(
        server, init_images=[picture()] * 2, batch_size=3, mask=picture(mode="L"), mask_blur=7,
        inpainting_fill=2, inpaint_full_res=0, inpainting_mask_invert=1, mask_round=False,
        image_cfg_scale=1.5, tiling=True, initial_noise_multiplier=0.9,
    )  # fmt: skip
    request = server.engine.jobs()[0].request
    assert (request.batch_size, request.mask_blur_x, request.mask_blur_y) == (2, 7, 7)
    assert (request.masked_content, request.only_masked, request.mask_invert) == (2, False, True)
    assert (request.mask_round, request.tiling, request.image_cfg_scale) == (False, True, 1.5)
    assert request.initial_noise_multiplier == 0.9
    assert server.engine.jobs()[0].status is JobStatus.DONE


def test_a1111s_defaults_of_inpainting_are_kept(server: Server) -> None:
    post(server, init_images=[picture()], mask=picture())
    request = server.engine.jobs()[0].request
    assert (request.masked_content, request.only_masked) == (0, True)
    assert (request.only_masked_padding, request.mask_blur_x) == (0, 4)
    assert (request.steps, request.denoising_strength) == (3, 0.75)


HIRES = {"enable_hr": True, "denoising_strength": 0.6}


def test_hires_fields_reach_the_request_and_names_that_mean_the_same_are_none(
    server: Server,
) -> None:
    server.draw(
        **HIRES, hr_upscaler="lanczos", hr_second_pass_steps=4, hr_sampler_name="Use same sampler",
        hr_scheduler="Use same scheduler", hr_checkpoint_name="Use same checkpoint",
        hr_additional_modules=["Use same choices"], hr_prompt="a dog", hr_cfg=0,
        refiner_checkpoint="other", refiner_switch_at=0.7,
    )  # fmt: skip
    request = server.engine.jobs()[0].request
    assert (request.hires, request.hires_upscaler, request.hires_steps) == (True, "Lanczos", 4)
    assert (request.hires_sampler, request.hires_schedule, request.hires_checkpoint) == ("", "", "")
    assert (request.hires_prompts, request.hires_cfg_scale) == (("a dog",), None)
    assert (request.refiner, request.refiner_switch_at) == ("other.safetensors", 0.7)


def test_null_upscaler_and_strength_have_a1111s_meaning(server: Server) -> None:
    server.draw(enable_hr=True, hr_upscaler=None)
    request = server.engine.jobs()[0].request
    assert (request.hires_upscaler, request.denoising_strength) == ("Latent", 0.7)


def test_the_older_way_to_ask_for_hires_fix(server: Server) -> None:
    server.draw(**HIRES, width=128, height=96, firstphase_width=64)
    request = server.engine.jobs()[0].request
    assert (request.width, request.height, request.final_size) == (64, 48, (128, 96))


def test_a_setting_makes_width_and_height_the_final_size(start_server: Any) -> None:
    server = start_server(use_old_hires_fix_width_height=True)
    server.draw(**HIRES, width=1024, height=512)
    request = server.engine.jobs()[0].request
    assert (request.width, request.height, request.final_size) == (768, 384, (1024, 512))


def test_a_picture_to_enlarge_is_stored(server: Server) -> None:
    server.draw(**HIRES, firstpass_image=picture())
    assert server.engine.jobs()[0].request.first_picture is not None
    server.draw(firstpass_image=picture())
    assert server.engine.jobs()[0].request.first_picture is None


@pytest.mark.parametrize(
    ("payload", "field", "status"),
    [
        (HIRES | {"hr_upscaler": "no such"}, "hr_upscaler", 422),
        (HIRES | {"hr_sampler_name": "no such"}, "hr_sampler_name", 422),
        (HIRES | {"hr_checkpoint_name": "no such"}, "hr_checkpoint_name", 422),
        (HIRES | {"hr_scale": 64, "width": 2048, "height": 2048}, "hr_scale", 422),
        (HIRES | {"hr_resize_x": 16384, "hr_resize_y": 16384}, "hr_resize_x", 422),
        (HIRES | {"firstpass_image": "aGVsbG8="}, "firstpass_image", 422),
    ],
)
def test_what_a_second_pass_cannot_do_is_named(
    shared_server: Server, payload: dict[str, Any], field: str, status: int
) -> None:
    answer = shared_server.client.post("/sdapi/v1/txt2img", json=small(**payload))
    assert answer.status_code == status
    assert answer.json()["detail"][0]["loc"] == ["body", field]


def test_lists_of_upscalers_are_what_can_be_asked_for(shared_server: Server) -> None:
    pictures = shared_server.client.get("/sdapi/v1/upscalers").json()
    latents = shared_server.client.get("/sdapi/v1/latent-upscale-modes").json()
    assert [row["name"] for row in pictures] == [
        "None",
        "Lanczos",
        "Nearest",
        "R-ESRGAN AnimeVideo",
    ]
    assert [row["name"] for row in latents][:2] == ["Latent", "Latent (antialiased)"]
    assert len(latents) == 6
