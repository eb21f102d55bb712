"""A server process as users run it: pictures that can be made again, bad files, kill -9."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sdforge.output.images import read_infotext
from sdforge.output.infotext import parse_infotext, request_from_infotext
from tests.live import LiveServer
from tests.tiny import make_checkpoint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    data = tmp_path_factory.mktemp("live")
    folder = data / "models" / "Stable-diffusion"
    good = make_checkpoint(folder / "good.safetensors")
    make_checkpoint(folder / "other.safetensors", seed=1)
    (folder / "text.safetensors").write_text("this is a text file, not a checkpoint\n" * 100)
    (folder / "short.safetensors").write_bytes(good.read_bytes()[:-1000])
    live = LiveServer(data, page=False)
    live.start()
    yield live
    live.stop()


def pixels(picture: bytes) -> bytes:
    return Image.open(io.BytesIO(picture)).convert("RGB").tobytes()


def test_a_saved_picture_holds_all_that_is_needed_to_make_it_again(server: LiveServer) -> None:
    asked = {
        "prompt": 'a "red" cat, (sitting:1.3): on\na mat',
        "negative_prompt": "blue, dog",
        "sampler_name": "DPM++ 2M",
        "scheduler": "Exponential",
        "cfg_scale": 4.5,
        "seed": 4294967295,
        "width": 96,
        "height": 64,
        "subseed": 7,
        "subseed_strength": 0.3,
        "save_images": True,
        "override_settings": {"sd_model_checkpoint": "good", "CLIP_stop_at_last_layers": 2},
    }
    server.draw(**asked)
    saved = max(server.saved(), key=lambda path: path.stat().st_mtime)
    infotext = read_infotext(saved)
    read = request_from_infotext(parse_infotext(infotext))

    assert (read.prompt, read.negative_prompt) == (asked["prompt"], asked["negative_prompt"])
    assert (read.sampler, read.schedule) == ("DPM++ 2M", "Exponential")
    assert (read.cfg_scale, read.seed, read.width, read.height) == (4.5, 4294967295, 96, 64)
    assert (read.subseed, read.subseed_strength) == (7, 0.3)

    # Fields that are sent would win over the text.
    override = {"sd_model_checkpoint": "good"}
    status, body = server.post(
        "/sdapi/v1/txt2img", {"infotext": infotext, "override_settings": override}
    )
    assert status == 200
    assert pixels(base64.b64decode(body["images"][0])) == pixels(saved.read_bytes())


@pytest.mark.parametrize(
    ("values", "status", "words"),
    [
        ({"sampler_name": "Eular a"}, 422, ["sampler_name", "Euler a"]),
        ({"width": 0}, 422, ["width", "16"]),
        ({"steps": 10**9}, 422, ["steps", "1000"]),
        ({"override_settings": {"sd_model_checkpoint": "text"}}, 422, ["text.safetensors"]),
        ({"override_settings": {"sd_model_checkpoint": "short"}}, 422, ["short.safetensors"]),
        ({"override_settings": {"sd_model_checkpoint": "missing"}}, 422, ["missing", "good"]),
    ],
)
def test_bad_input_is_a_clear_4xx_and_the_server_goes_on(
    server: LiveServer, values: dict[str, Any], status: int, words: list[str]
) -> None:
    answered, body = server.post("/sdapi/v1/txt2img", {"prompt": "a cat", "steps": 2} | values)

    assert answered == status
    assert "Traceback" not in json.dumps(body)
    for word in words:
        assert word in json.dumps(body), body
    assert server.draw()


def test_broken_files_are_listed_with_the_reason_and_never_chosen(server: LiveServer) -> None:
    errors = {row["model_name"]: row["error"] for row in server.get("/sdapi/v1/sd-models")}
    assert errors["good"] is errors["other"] is None
    assert "text.safetensors is no safetensors file but text" in errors["text"]
    assert "short.safetensors" in errors["short"]
    assert server.get("/sdapi/v1/options")["sd_model_checkpoint"].startswith("good.safetensors")


def test_switching_back_and_forth_gives_the_memory_back(server: LiveServer) -> None:
    def anonymous_mib() -> float:
        text = Path(f"/proc/{server.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) / 1024

    def switch(times: int) -> None:
        for number in range(times):
            name = "other" if number % 2 else "good"
            server.draw(steps=1, override_settings={"sd_model_checkpoint": name})

    if not Path("/proc/self/status").exists():
        pytest.skip("reads /proc")
    switch(4)
    before = anonymous_mib()
    switch(10)
    assert anonymous_mib() - before < 16


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
def test_a_full_disk_is_said_and_forgotten_once_there_is_room(server: LiveServer) -> None:
    import resource

    asked = {"prompt": "a cat", "steps": 1, "width": 256, "height": 256, "save_images": True}
    server.draw(**asked)
    before = server.saved()
    stores = (
        ("/sdapi/v1/txt2img", asked),
        ("/api/v1/jobs/txt2img", asked),
        ("/sdapi/v1/options", {"jpeg_quality": 77}),
        ("/api/v1/styles", {"name": "new"}),
    )
    # No file of the server may grow: every write fails, as on a full disk.
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        for path, body in stores:
            status, answer = server.post(path, body)
            assert (status, "could not" in answer["errors"]) == (507, True), answer
        for path in ("/healthz", "/sdapi/v1/progress", "/sdapi/v1/options", "/api/v1/queue",
                     "/api/v1/history", "/api/v1/jobs"):  # fmt: skip
            server.get(path)
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (soft, hard))
    assert server.saved() == before
    server.draw(**asked)
    assert len(server.saved()) == len(before) + 1
    assert server.post("/sdapi/v1/options", {"jpeg_quality": 80})[0] == 200
    assert not [name for folder in server.data.rglob("*") if (name := folder.name).endswith(".tmp")]


def test_kill_9_in_a_job_keeps_pictures_settings_and_the_queue(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "Stable-diffusion" / "good.safetensors")
    live = LiveServer(tmp_path, page=False)
    live.start()
    try:
        first = live.draw(seed=1, save_images=True)
        assert live.post("/sdapi/v1/options", {"jpeg_quality": 77})[0] == 200
        body = {"prompt": "a cat", "steps": 1000, "save_images": True}
        for name in ("long", "waiting"):
            text = json.dumps(body | {"force_task_id": name})
            command = [sys.executable, "-c", POST, live.url, text]
            subprocess.Popen(command, stderr=subprocess.DEVNULL)
            live.until(lambda name=name: name in {job["id"] for job in jobs(live)})
        live.until(lambda: live.get("/sdapi/v1/progress")["state"]["sampling_step"] > 3)
        live.kill()

        live.start()
        live.until(lambda: states(live)["long"] == "interrupted")
        live.until(lambda: states(live)["waiting"] == "running")
        saved = [path.read_bytes() for path in live.saved()]
        assert [pixels(data) for data in saved] == [pixels(first)]
        assert live.get("/sdapi/v1/options")["jpeg_quality"] == 77
        live.post("/api/v1/jobs/waiting/cancel", {})
        assert live.draw(seed=1)
    finally:
        live.stop()


POST = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1] + "/sdapi/v1/txt2img", data=sys.argv[2].encode(),
                                 headers={"Content-Type": "application/json"})
urllib.request.urlopen(request)
"""


def jobs(live: LiveServer) -> list[dict[str, Any]]:
    found = live.get("/api/v1/jobs")
    return found["jobs"] if isinstance(found, dict) else found


def states(live: LiveServer) -> dict[str, str]:
    return {job["id"]: job["status"] for job in jobs(live)}
