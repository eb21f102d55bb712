"""POST /sdapi/v1/txt2img: what comes back, and what it does to the server."""

from __future__ import annotations

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from sdforge.core.fields import fields_of
from sdforge.engine import JobStatus
from sdforge.output.metadata import read_infotext
from tests.api.conftest import Server, StartServer, small
from tests.engine.fakes import a_request

INFO_KEYS = (
    "prompt all_prompts negative_prompt all_negative_prompts seed all_seeds subseed all_subseeds "
    "subseed_strength width height sampler_name cfg_scale steps batch_size restore_faces "
    "face_restoration_model sd_model_name sd_model_hash sd_vae_name sd_vae_hash seed_resize_from_w "
    "seed_resize_from_h denoising_strength extra_generation_params index_of_first_image infotexts "
    "styles job_timestamp clip_skip is_using_inpainting_conditioning version notices timings"
).split()


def decoded(picture: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture)))


def test_a_picture_comes_back_as_plain_base64_png_of_the_size_asked_for(server: Server) -> None:
    body = server.draw(width=64, height=128)
    assert set(body) == {"images", "parameters", "info"}
    picture = decoded(body["images"][0])
    assert (picture.format, picture.size) == ("PNG", (64, 128))


def test_the_picture_carries_its_infotext(server: Server) -> None:
    body = server.draw(prompt="a red fox", seed=11)
    text = read_infotext(base64.b64decode(body["images"][0]))
    assert text.startswith("a red fox\n")
    assert "Seed: 11" in text
    assert json.loads(body["info"])["infotexts"] == [text]


def test_parameters_echo_every_field_with_a1111s_defaults(server: Server) -> None:
    answer = server.client.post("/sdapi/v1/txt2img", json={"steps": 2})
    parameters = answer.json()["parameters"]
    expected = {"prompt": "", "steps": 2, "seed": -1, "n_iter": 1, "batch_size": 1,
                "sampler_name": None, "sampler_index": "Euler", "scheduler": None, "styles": None,
                "override_settings": None, "send_images": True, "save_images": False,
                "alwayson_scripts": {}, "script_args": [], "enable_hr": False}  # fmt: skip
    assert {key: parameters[key] for key in expected} == expected
    assert {row.api for row in fields_of("txt2img")} <= set(parameters)


def test_sizes_left_open_become_the_checkpoints_own_and_are_echoed(server: Server) -> None:
    answer = server.client.post("/sdapi/v1/txt2img", json={"steps": 2})
    body = answer.json()
    assert decoded(body["images"][0]).size == (64, 64)
    assert (body["parameters"]["width"], body["parameters"]["cfg_scale"]) == (64, 7.0)


def test_steps_default_to_50_as_in_a1111(server: Server) -> None:
    body = server.client.post("/sdapi/v1/txt2img", json={"width": 64, "height": 64}).json()
    assert json.loads(body["info"])["steps"] == 50


def test_info_is_text_that_holds_all_of_a1111s_keys(server: Server) -> None:
    body = server.draw(batch_size=2, n_iter=2, seed=100, negative_prompt="dull")
    assert isinstance(body["info"], str)
    info = json.loads(body["info"])
    assert sorted(info) == sorted(INFO_KEYS)
    assert info["all_seeds"] == [100, 101, 102, 103]
    assert info["all_negative_prompts"] == ["dull"] * 4
    assert len(info["infotexts"]) == len(body["images"]) == 4
    assert info["sd_model_name"] == "other"
    assert info["index_of_first_image"] == 0
    assert len(info["job_timestamp"]) == 14


def test_sampler_name_wins_over_sampler_index(server: Server) -> None:
    info = json.loads(server.draw(sampler_name="DPM++ 2M", sampler_index="Euler")["info"])
    assert info["sampler_name"] == "DPM++ 2M"
    info = json.loads(server.draw(sampler_name="", sampler_index="Euler a")["info"])
    assert info["sampler_name"] == "Euler a"


def test_the_header_names_the_job_and_a_task_id_is_honoured(server: Server) -> None:
    task = "task(my own id)"
    answer = server.client.post("/sdapi/v1/txt2img", json=small(force_task_id=task))
    assert answer.headers["X-Job-Id"] == task
    assert server.engine.get(task).status is JobStatus.DONE


def test_a_task_id_that_is_taken_answers_409(server: Server) -> None:
    server.draw(force_task_id="once")
    answer = server.client.post("/sdapi/v1/txt2img", json=small(force_task_id="once"))
    assert answer.status_code == 409
    assert "force_task_id" in answer.json()["errors"]


def test_send_images_false_answers_without_pictures(server: Server) -> None:
    body = server.draw(send_images=False)
    assert body["images"] == []
    assert len(json.loads(body["info"])["infotexts"]) == 1


def test_nothing_is_saved_unless_save_images_is_true(server: Server) -> None:
    outputs = server.paths.data / "outputs"
    server.draw()
    assert not list(outputs.rglob("*.png"))
    server.draw(save_images=True)
    assert len(list(outputs.rglob("*.png"))) == 1


def test_a_grid_comes_first_when_several_pictures_are_saved(server: Server) -> None:
    body = server.draw(batch_size=4, save_images=True)
    assert len(list((server.paths.data / "outputs" / "txt2img-grids").rglob("*.png"))) == 1
    assert [decoded(picture).size for picture in body["images"]] == [(128, 128)] + [(64, 64)] * 4
    info = json.loads(body["info"])
    assert info["index_of_first_image"] == 1
    assert len(info["infotexts"]) == 5


@pytest.mark.parametrize(
    "payload",
    [
        {"batch_size": 4},
        {"batch_size": 1, "save_images": True},
        {"batch_size": 4, "save_images": True, "override_settings": {"return_grid": False}},
    ],
)
def test_there_is_no_grid_otherwise(server: Server, payload: dict[str, Any]) -> None:
    body = server.draw(**payload)
    assert json.loads(body["info"])["index_of_first_image"] == 0
    assert len(body["images"]) == payload["batch_size"]


def test_pictures_come_in_the_format_of_the_settings(server: Server) -> None:
    body = server.draw(override_settings={"samples_format": "webp"})
    assert decoded(body["images"][0]).format == "WEBP"


def test_overrides_hold_for_one_job_only(server: Server) -> None:
    server.draw(override_settings={"CLIP_stop_at_last_layers": 2, "eta_noise_seed_delta": None})
    server.draw()
    assert [seen.CLIP_stop_at_last_layers for seen in server.runner.settings] == [2, 1]


def test_overrides_stay_when_asked_not_to_be_restored(server: Server) -> None:
    server.draw(
        override_settings={"sd_model_checkpoint": "tin", "CLIP_stop_at_last_layers": 2},
        override_settings_restore_afterwards=False,
    )
    current = server.engine.settings.current
    assert (current.CLIP_stop_at_last_layers, current.sd_model_checkpoint) == (
        2,
        "tiny.safetensors",
    )


def test_overrides_that_cannot_stay_take_their_job_along(server: Server) -> None:
    server.runner.gate_step = 1
    server.engine.submit(a_request())
    payload = small(
        override_settings={"sd_vae": "no such file"},
        override_settings_restore_afterwards=False,
        force_task_id="unwanted",
    )
    answer = server.client.post("/sdapi/v1/txt2img", json=payload)
    assert answer.status_code == 422
    assert "sd_vae" in answer.json()["errors"]
    assert server.engine.get("unwanted").status is JobStatus.CANCELLED


def test_the_checkpoint_of_an_override_is_used(server: Server) -> None:
    info = json.loads(server.draw(override_settings={"sd_model_checkpoint": "tiny"})["info"])
    assert info["sd_model_name"] == "tiny"
    assert server.runner.loads == ["tiny.safetensors"]


def test_locked_settings_cannot_be_overridden(server: Server) -> None:
    elsewhere = str(server.paths.data / "elsewhere")
    server.draw(save_images=True, override_settings={"outdir_txt2img_samples": elsewhere})
    assert not (server.paths.data / "elsewhere").exists()


def test_an_infotext_fills_the_fields_that_were_not_sent(server: Server) -> None:
    text = (
        "a blue bird\nNegative prompt: rain\n"
        "Steps: 2, Sampler: DPM++ 2M Karras, CFG scale: 4.5, Seed: 77, Size: 64x64, Clip skip: 2"
    )
    answer = server.client.post("/sdapi/v1/txt2img", json={"infotext": text, "seed": 5})
    info = json.loads(answer.json()["info"])
    assert (info["prompt"], info["negative_prompt"]) == ("a blue bird", "rain")
    assert (info["steps"], info["sampler_name"], info["cfg_scale"]) == (2, "DPM++ 2M", 4.5)
    assert (info["seed"], info["clip_skip"], info["width"]) == (5, 2, 64)


def test_an_interrupted_job_answers_with_what_there_is(server: Server) -> None:
    server.runner.gate_step = 2
    with ThreadPoolExecutor() as pool:
        future = pool.submit(server.draw, n_iter=3, steps=5)
        assert server.runner.reached.acquire(timeout=10)
        assert server.client.post("/sdapi/v1/interrupt").json() == {}
        server.runner.gate.set()
        body = future.result(timeout=10)
    assert len(body["images"]) == 1
    assert len(json.loads(body["info"])["all_seeds"]) == 3


def test_a_job_stopped_before_its_first_picture_answers_with_none(server: Server) -> None:
    server.runner.gate_step = 1
    with ThreadPoolExecutor() as pool:
        first = pool.submit(server.draw)
        assert server.runner.reached.acquire(timeout=10)
        second = pool.submit(server.draw, force_task_id="second", prompt="never drawn")
        while "second" not in [job.id for job in server.engine.jobs()]:
            threading.Event().wait(0.01)
        server.client.post("/api/v1/jobs/second/cancel")
        body = second.result(timeout=10)
        server.runner.gate.set()
        first.result(timeout=10)
    assert body["images"] == []
    assert json.loads(body["info"])["infotexts"][0].startswith("never drawn")


def test_a_large_job_loses_no_picture_to_the_bound_of_the_cache(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.engine._pictures, "_max_pictures", 2)
    server.runner.gate_step = 1
    with ThreadPoolExecutor() as pool:
        future = pool.submit(server.draw, n_iter=6)
        for _ in range(6):
            assert server.runner.reached.acquire(timeout=10)
            threading.Event().wait(0.05)
            server.runner.gate.set()
            server.runner.gate.clear()
        server.runner.gate.set()
        body = future.result(timeout=10)
    assert len(body["images"]) == 6


def test_a_failed_job_answers_with_its_error_and_the_server_goes_on(server: Server) -> None:
    answer = server.client.post("/sdapi/v1/txt2img", json=small(prompt="raise"))
    assert answer.status_code == 500
    body = answer.json()
    assert set(body) == {"error", "detail", "body", "errors", "message"}
    assert "the fake broke" in body["errors"]
    assert "Traceback" not in answer.text
    assert answer.headers["X-Job-Id"]
    assert len(server.draw()["images"]) == 1


def test_a_server_that_stops_answers_waiting_requests(start_server: StartServer) -> None:
    server = start_server()
    server.runner.gate_step = 1
    with ThreadPoolExecutor() as pool:
        posted = [
            pool.submit(server.client.post, "/sdapi/v1/txt2img", json=small(force_task_id=name))
            for name in ("one", "two")
        ]
        assert server.runner.reached.acquire(timeout=10)
        while len(server.engine.jobs()) < 2:
            threading.Event().wait(0.01)
        closing = pool.submit(server.engine.close)
        threading.Event().wait(0.1)
        server.runner.gate.set()
        closing.result(timeout=10)
        assert [future.result(timeout=10).status_code for future in posted] == [503, 503]
