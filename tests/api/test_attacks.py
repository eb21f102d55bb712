"""One test per class of attack that peers have fallen to; each must be refused.

Details of the single defences are in the tests of their modules: `core/outbound.py` (links into the
local network, with names that change their mind and with redirects), `api/security.py`,
`models/pickled` and the like. Here they are tried from outside.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from sdforge.api.attempts import MOST_FAILURES, WINDOW_SECONDS, Attempts
from tests.api.conftest import Server, StartServer, small
from tests.api.contract.fields import PICTURE
from tests.core.test_outbound import at, serving

TRAVERSALS = (
    "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "/etc/passwd",
    "....//....//etc/passwd", "..\\..\\windows\\win.ini", "%2e%2e/%2e%2e/etc/passwd",
    "file:///etc/passwd", "C:/windows/win.ini",
)  # fmt: skip
READING_ROUTES = (
    "/api/v1/inputs/{}", "/api/v1/jobs/{}/images/0", "/api/v1/history/{}/image",
    "/sd_extra_networks/thumb?filename={}", "/sd_extra_networks/metadata?page=lora&item={}",
    "/file={}", "/file/{}", "/v1/models/{}", "/webui-assets/{}",
)  # fmt: skip


@pytest.mark.parametrize("route", READING_ROUTES)
def test_paths_out_of_the_folders_are_not_read(shared_server: Server, route: str) -> None:
    for path in TRAVERSALS:
        answer = shared_server.client.get(route.format(path))
        assert b"root:" not in answer.content
        assert answer.status_code in (404, 422) or answer.json() == {}, (route, path)


def test_no_client_says_where_files_are_written(server: Server) -> None:
    """A1111: "save to" settings and patterns let a client write anywhere."""
    before = {path for path in server.paths.data.parent.rglob("*") if path.is_file()}
    overrides = {
        "outdir_txt2img_samples": "/tmp/elsewhere",
        "samples_filename_pattern": "../../../../[prompt]",
        "directories_filename_pattern": "../../../up",
    }
    server.draw(prompt="../../x", save_images=True, override_settings=overrides)
    outputs = server.paths.data / "outputs"
    new = set(server.paths.data.parent.rglob("*.png")) - before
    assert new and all(outputs in path.resolve().parents for path in new)
    assert not Path("/tmp/elsewhere").exists()


def test_links_do_not_reach_the_local_network(start_server: StartServer) -> None:
    """SSRF: names, spellings, redirects and rebinding are in tests/core/test_outbound.py."""
    server = start_server(api_enable_requests=True)
    with serving() as web:
        for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]", "0x7f.1"):
            body = small(init_images=[at(web, "/picture", host)])
            answer = server.client.post("/sdapi/v1/img2img", json=body)
            assert answer.status_code == 422, host


@pytest.mark.parametrize("route", ["/sdapi/v1/options", "/api/v1/queue/clear", "/v1/images/edits"])
def test_a_page_of_another_site_changes_nothing(shared_server: Server, route: str) -> None:
    """CSRF: also as a plain form, which needs no preflight."""
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ):
        for origin in ("https://evil.test", "null", "http://127.0.0.1:7860.evil.test"):
            headers = {"Origin": origin, "Content-Type": kind}
            answer = shared_server.client.post(route, content=b"{}", headers=headers)
            assert answer.status_code == 403, (kind, origin)


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "localhost.evil.test:7860"])
def test_a_name_that_was_rebound_to_this_machine_is_refused(
    shared_server: Server, host: str
) -> None:
    for path in ("/sdapi/v1/options", "/api/v1/history", "/metrics", "/healthz"):
        assert shared_server.client.get(path, headers={"Host": host}).status_code == 403


def test_a_picture_that_unpacks_to_gigabytes_is_refused_by_its_header(
    shared_server: Server,
) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" * 10_000_000, 9)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )
    text = base64.b64encode(bomb).decode()
    for path, body in (
        ("/sdapi/v1/img2img", small(init_images=[text])),
        ("/sdapi/v1/img2img", small(init_images=[PICTURE], mask=text)),
        ("/controlnet/detect", {"controlnet_module": "canny", "controlnet_input_images": [text]}),
    ):
        assert shared_server.client.post(path, json=body).status_code == 422, path
    assert shared_server.client.post("/api/v1/inputs", content=bomb).status_code == 422
    # A text chunk that unpacks to a hundred megabytes.
    words = b"parameters\0\0" + zlib.compress(b"a" * 100_000_000, 9)
    small_header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", small_header) + chunk(b"zTXt", words)
    bomb += chunk(b"IDAT", zlib.compress(b"\0" * 4)) + chunk(b"IEND", b"")
    answer = shared_server.client.post(
        "/sdapi/v1/png-info", json={"image": base64.b64encode(bomb).decode()}
    )
    assert answer.status_code in (200, 422)
    assert len(answer.content) < 10_000_000


def test_a_model_file_that_would_run_code_is_not_run(server: Server, tmp_path: Path) -> None:
    """Pickle: the file is listed with the reason, and nothing of it has happened."""
    marker = tmp_path / "ran"
    code = f"cposix\nsystem\n(S'touch {marker}'\ntR."
    folder = server.paths.models / "Stable-diffusion"
    with zipfile.ZipFile(folder / "evil.ckpt", "w") as file:
        file.writestr("archive/data.pkl", code)
        file.writestr("archive/version", "3")
    (folder / "raw.ckpt").write_bytes(code.encode())
    server.client.post("/sdapi/v1/refresh-checkpoints")
    models = server.client.get("/sdapi/v1/sd-models").json()
    for name in ("evil", "raw"):
        listed = [model for model in models if model["model_name"] == name]
        assert all(model["error"] for model in listed)
        body = small(override_settings={"sd_model_checkpoint": f"{name}.ckpt"})
        assert server.client.post("/sdapi/v1/txt2img", json=body).status_code == 422
    assert not marker.exists()


def test_nothing_a_client_sends_becomes_a_header(server: Server) -> None:
    for task in ("a\r\nSet-Cookie: x=1", "a\nb", "a\0b"):
        answer = server.client.post("/sdapi/v1/txt2img", json=small(force_task_id=task))
        assert answer.status_code == 422
    answer = server.client.post("/sdapi/v1/txt2img", json=small(force_task_id="ä → ☃"))
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert answer.headers["X-Job-Id"].isascii()


@pytest.mark.parametrize(
    "values",
    [
        {"width": 10**9},
        {"width": 16384, "height": 16384},
        {"batch_size": 10**6},
        {"n_iter": 10**9},
        {"batch_size": 64, "n_iter": 1000},
        {"steps": 10**9},
        {"enable_hr": True, "hr_scale": 10**6},
        {"enable_hr": True, "hr_resize_x": 10**9},
        {"seed": 10**30},
        {"cfg_scale": 1e300},
        {"force_task_id": "x" * 10_000},
        {"alwayson_scripts": {"x" * 100_000: {}}},
        {"override_settings": {"jpeg_quality": 10**9}},
    ],
    ids=lambda values: "-".join(values),
)
def test_too_much_of_anything_is_refused_at_once(
    shared_server: Server, values: dict[str, Any]
) -> None:
    answer = shared_server.client.post("/sdapi/v1/txt2img", json=small() | values)
    assert answer.status_code == 422


def test_bodies_that_are_too_large_or_too_deep_are_refused(shared_server: Server) -> None:
    post = shared_server.client.post
    headers = {"Content-Length": str(200 * 2**20), "Content-Type": "application/json"}
    assert post("/sdapi/v1/txt2img", content=b"{}", headers=headers).status_code == 413
    deep = '{"override_settings":' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}"
    answer = post("/sdapi/v1/txt2img", content=deep, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    number = '{"seed": ' + "9" * 100_000 + "}"
    answer = post("/sdapi/v1/txt2img", content=number, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)


def test_secrets_are_told_to_nobody(start_server: StartServer) -> None:
    flags = {"api_auth": "me:hunter2", "webhook_secret": "tell-nobody", "ngrok": "a-token"}
    server = start_server(flags)
    server.client.auth = ("me", "hunter2")
    for path in ("/sdapi/v1/cmd-flags", "/sdapi/v1/options", "/internal/sysinfo", "/metrics",
                 "/openapi.json", "/api/v1/status"):  # fmt: skip
        text = server.client.get(path).text
        for secret in ("hunter2", "tell-nobody", "a-token"):
            assert secret not in text, path


def test_passwords_cannot_be_guessed_one_after_another(start_server: StartServer) -> None:
    server = start_server({"api_auth": "me:secret"})

    def ask(password: str) -> int:
        return server.client.get("/sdapi/v1/samplers", auth=("me", password)).status_code

    assert ask("secret") == 200
    assert [ask(f"guess{number}") for number in range(MOST_FAILURES)] == [401] * MOST_FAILURES
    blocked = server.client.get("/sdapi/v1/samplers", auth=("me", "secret"))
    assert blocked.status_code == 429
    assert int(blocked.headers["Retry-After"]) > 0
    assert server.client.get("/healthz").status_code == 200


def test_an_address_may_try_again_after_a_while_and_others_at_once() -> None:
    now = [0.0]
    attempts = Attempts(clock=lambda: now[0])
    for _ in range(MOST_FAILURES):
        attempts.failed("a")
    assert attempts.wait_seconds("a") == WINDOW_SECONDS
    assert attempts.wait_seconds("b") == 0
    now[0] = WINDOW_SECONDS
    assert attempts.wait_seconds("a") == 0
    attempts.failed("a")
    assert attempts.wait_seconds("a") == 0


def test_html_in_a_prompt_stays_text(server: Server) -> None:
    """Stored scripts: what the API gives out is never taken for a page."""
    server.draw(prompt="<script>alert(1)</script>", force_task_id="x", save_images=True)
    for path in ("/api/v1/jobs", "/api/v1/history", "/api/v1/history/1/image"):
        answer = server.client.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not answer.headers["Content-Type"].startswith("text/html")
    assert "<script>" in json.dumps(server.client.get("/api/v1/jobs/x").json())
    assert io.BytesIO(server.client.get("/api/v1/history/1/image").content).read(4) == b"\x89PNG"
