"""The extras routes, as A1111's clients use them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdforge.engine import JobStatus
from sdforge.output.images import encode_image
from sdforge.output.png import read_png_text
from tests.api.conftest import Server, StartServer

INFOTEXT = "a cat\nSteps: 4, Sampler: Euler, CFG scale: 3.0, Seed: 17, Size: 24x16"


def picture(width: int = 24, height: int = 16, infotext: str | None = INFOTEXT) -> str:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 9, columns * 9, rows + columns], axis=-1).astype(np.uint8)
    return base64.b64encode(encode_image(pixels, "png", infotext=infotext)).decode()


def post(server: Server, route: str = "extra-single-image", **values: Any) -> dict[str, Any]:
    answer = server.client.post(f"/sdapi/v1/{route}", json=values)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def opened(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_a_picture_is_enlarged_by_a_factor_and_the_answer_says_so(shared_server: Server) -> None:
    for prefix in ("", "data:image/png;base64,"):
        body = post(
            shared_server, image=prefix + picture(), upscaler_1="lanczos", upscaling_resize=2
        )
        assert body.keys() == {"html_info", "image"}
        done = "Postprocess upscale by: 2, Postprocess upscaler: Lanczos"
        assert body["html_info"] == f"<p>{done}</p>"
        assert opened(body["image"]).size == (48, 32)
        texts = read_png_text(base64.b64decode(body["image"]))
        assert texts == {"parameters": INFOTEXT, "postprocessing": done, "extras": done}


def test_nothing_is_saved_to_disk_and_the_job_is_named(server: Server) -> None:
    server.draw(save_images=False)
    loaded = server.engine.model_state()["title"]
    answer = server.client.post(
        "/sdapi/v1/extra-single-image", json={"image": picture(), "upscaler_1": "Nearest"}
    )
    job = server.engine.get(answer.headers["X-Job-Id"])
    assert (job.kind, job.status, job.request.checkpoint) == ("extras", JobStatus.DONE, "")
    assert job.images[0].path is None
    assert not (server.paths.data / "outputs").exists()
    assert job.images[0].seed == 17
    assert loaded
    assert server.engine.model_state()["title"] == loaded


@pytest.mark.parametrize(
    ("crop", "size", "said"),
    [(True, (40, 40), ", Postprocess crop to: 40x40"), (False, (60, 40), "")],
)
def test_to_a_size(shared_server: Server, crop: bool, size: tuple[int, int], said: str) -> None:
    body = post(
        shared_server, image=picture(), upscaler_1="Lanczos", resize_mode=1,
        upscaling_resize_w=40, upscaling_resize_h=40, upscaling_crop=crop,
    )  # fmt: skip
    assert opened(body["image"]).size == size
    text = f"Postprocess upscale to: 40x40{said}, Postprocess upscaler: Lanczos"
    assert body["html_info"] == f"<p>{text}</p>"


def test_a_crop_is_the_middle(shared_server: Server) -> None:
    values = {"image": picture(), "upscaler_1": "Nearest", "resize_mode": 1}
    size = {"upscaling_resize_w": 32, "upscaling_resize_h": 32}
    cropped = opened(post(shared_server, **values, **size)["image"])
    whole = opened(post(shared_server, **values, **size, upscaling_crop=False)["image"])
    assert whole.size == (48, 32)
    np.testing.assert_array_equal(np.asarray(cropped), np.asarray(whole)[:, 8:40])


def test_the_longest_side_may_be_limited(shared_server: Server) -> None:
    body = post(
        shared_server, image=picture(), upscaler_1="Lanczos", upscaling_resize=4, max_side_length=60
    )
    assert opened(body["image"]).size == (60, 40)
    assert "Max side length: 60" in body["html_info"]


def test_a_second_upscaler_is_mixed_in_by_its_share(shared_server: Server) -> None:
    values = {"image": picture(), "upscaling_resize": 3}
    one, two = (
        np.asarray(opened(post(shared_server, **values, upscaler_1=name)["image"])).astype(int)
        for name in ("Nearest", "Lanczos")
    )
    both = {"upscaler_1": "Nearest", "upscaler_2": "Lanczos"}
    body = post(shared_server, **values, **both, extras_upscaler_2_visibility=0.25)
    mixed = np.asarray(opened(body["image"])).astype(int)
    assert np.abs(mixed - (0.75 * one + 0.25 * two)).max() <= 1
    assert body["html_info"].endswith("Postprocess upscaler 2: Lanczos</p>")
    unseen = post(shared_server, **values, **both)
    np.testing.assert_array_equal(np.asarray(opened(unseen["image"])), one)
    assert "upscaler 2" not in unseen["html_info"]


def test_without_an_upscaler_the_picture_comes_back(shared_server: Server) -> None:
    sent = picture()
    body = post(shared_server, image=sent, upscaling_resize=4)
    np.testing.assert_array_equal(np.asarray(opened(body["image"])), np.asarray(opened(sent)))
    assert body["html_info"] == "<p></p>"


def test_a_batch_keeps_its_order(shared_server: Server) -> None:
    sizes = [(8, 9), (31, 7), (1, 1)]
    files = [{"data": picture(*size), "name": f"sub/{size[0]}.png"} for size in sizes]
    body = post(shared_server, "extra-batch-images", imageList=files, upscaler_1="Nearest")
    assert [opened(one).size for one in body["images"]] == [(w * 2, h * 2) for w, h in sizes]
    assert body["html_info"].startswith("<p>Postprocess upscale by: 2")


@pytest.mark.parametrize(
    ("values", "field", "status"),
    [
        ({"upscaler_1": "4x-Sharpest"}, "upscaler_1", 422),
        ({"upscaler_2": "4x-Sharpest"}, "upscaler_2", 422),
        ({"image": ""}, "image", 422),
        ({"image": "bm90IGEgcGljdHVyZQ=="}, "image", 422),
        ({"upscaling_resize": 4000, "upscaler_1": "Lanczos"}, "upscaling_resize", 422),
        ({"max_side_length": -1}, "max_side_length", 422),
        (
            {"resize_mode": 1, "upscaling_resize_w": 60000, "upscaler_1": "Lanczos"},
            "upscaling_resize_w",
            422,
        ),
        ({"gfpgan_visibility": 0.5}, "GFPGANv1.4.pth", 422),
        ({"codeformer_visibility": 1}, "codeformer-v0.1.0.pth", 422),
    ],
)
def test_what_cannot_be_done_is_named(
    shared_server: Server, values: dict[str, Any], field: str, status: int
) -> None:
    answer = shared_server.client.post(
        "/sdapi/v1/extra-single-image", json={"image": picture()} | values
    )
    assert answer.status_code == status, answer.text
    assert field in answer.text


def test_an_empty_batch_and_no_batch_are_refused(shared_server: Server) -> None:
    for body in ({}, {"imageList": []}):
        answer = shared_server.client.post("/sdapi/v1/extra-batch-images", json=body)
        assert answer.status_code == 422
        assert "imageList" in answer.text


def test_extras_work_without_any_checkpoint(tmp_path: Any, start_server: StartServer) -> None:
    server = start_server()
    for file in server.paths.checkpoints[0].iterdir():
        file.unlink()
    body = post(server, image=picture(), upscaler_1="Lanczos")
    assert opened(body["image"]).size == (48, 32)


def test_stored_pictures_become_a_job_that_saves_under_their_names(server: Server) -> None:
    stored = [
        server.client.post("/api/v1/inputs", content=base64.b64decode(picture(width))).json()
        for width in (10, 20)
    ]
    images = [
        one | {"name": f"C:\\here\\{name}.jpg"} for one, name in zip(stored, "ab", strict=True)
    ]
    answer = server.client.post(
        "/api/v1/extras", json={"images": images, "upscaler_1": "Lanczos", "upscaling_resize": 1.5}
    )
    assert answer.status_code == 202, answer.text
    job = server.engine.wait(answer.json()["id"], 120)
    assert job.status is JobStatus.DONE
    folder = server.paths.resolve_output("outputs/extras-images")
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png"]
    assert [(one.width, one.height) for one in job.images] == [(15, 24), (30, 24)]
    assert job.images[0].infotext == f"{INFOTEXT}, {job.images[0].processing}"
    again = server.client.get(f"/api/v1/jobs/{job.id}").json()
    assert again["request"]["extras"]["upscaler"] == "Lanczos"
    gone = server.client.post("/api/v1/extras", json={"images": [stored[0] | {"sha256": "0" * 64}]})
    assert gone.status_code == 404


def test_progress_counts_the_pictures_of_a_batch(server: Server) -> None:
    files = [{"data": picture(8 + number, 8), "name": ""} for number in range(3)]
    answer = server.client.post(
        "/sdapi/v1/extra-batch-images", json={"imageList": files, "upscaler_1": "Lanczos"}
    )
    job = server.engine.get(answer.headers["X-Job-Id"])
    assert job.progress.batch_count == 3
    assert job.progress.fraction == 1.0
    assert set(job.timings) >= {"input", "upscale"}


def write(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(base64.b64decode(picture(8 + number, 8)))


def test_a_folder_below_outputs_is_worked_through(server: Server) -> None:
    source = server.paths.data / "outputs" / "mine"
    write(source, "b.png", "a.PNG")
    (source / "note.txt").write_text("no picture")
    answer = server.client.post(
        "/api/v1/extras",
        json={"input_dir": "outputs/mine", "output_dir": "outputs/large", "upscaler_1": "Lanczos"},
    )
    assert answer.status_code == 202, answer.text
    job = server.engine.wait(answer.json()["id"], 120)
    assert job.status is JobStatus.DONE, job.error
    made = {path.name: Image.open(path).size for path in (source.parent / "large").iterdir()}
    assert made == {"a.png": (18, 16), "b.png": (16, 16)}


def test_other_folders_are_refused_unless_they_are_allowed(
    start_server: StartServer, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, "a.png")
    server = start_server()
    outputs = server.paths.data / "outputs"
    outputs.mkdir()
    (outputs / "way-out").symlink_to(elsewhere)
    write(outputs / "in", "a.png")
    (outputs / "in" / "b.png").symlink_to(elsewhere / "a.png")
    for values in (
        {"input_dir": str(elsewhere)},
        {"input_dir": "outputs/../elsewhere"},
        {"input_dir": "outputs/way-out"},
        {"input_dir": "/"},
        {"input_dir": "outputs/in", "output_dir": "."},
        {"input_dir": "outputs/in", "output_dir": str(elsewhere)},
        {"input_dir": "outputs/nothing-here"},
        {"input_dir": "outputs/\0"},
    ):
        answer = server.client.post("/api/v1/extras", json=values)
        assert answer.status_code == 422, values
        assert "_dir" in answer.text
    answer = server.client.post("/api/v1/extras", json={"input_dir": "outputs/in"})
    assert len(answer.json()["request"]["init_images"]) == 1
    server.engine.wait(answer.json()["id"], 120)
    server.engine.close()
    allowed = start_server({"gradio_allowed_path": [str(elsewhere)]})
    answer = allowed.client.post("/api/v1/extras", json={"input_dir": str(elsewhere)})
    assert answer.status_code == 202, answer.text


def test_a_broken_picture_of_a_folder_is_named(server: Server) -> None:
    source = server.paths.data / "outputs" / "in"
    write(source, "a.png")
    (source / "broken.png").write_bytes(b"no picture")
    answer = server.client.post("/api/v1/extras", json={"input_dir": "outputs/in"})
    assert answer.status_code == 422
    assert "broken.png" in answer.text
