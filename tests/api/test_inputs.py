from __future__ import annotations

import io

from PIL import Image

from tests.api.conftest import Server


def png(size: tuple[int, int] = (24, 16)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, "PNG")
    return file.getvalue()


def test_a_picture_is_stored_under_its_content_and_comes_back(server: Server) -> None:
    first = server.client.post("/api/v1/inputs", content=png())
    again = server.client.post("/api/v1/inputs", content=png())
    assert first.status_code == 200, first.text
    assert first.json() == again.json()
    assert (first.json()["width"], first.json()["height"]) == (24, 16)
    kept = server.client.get(f"/api/v1/inputs/{first.json()['sha256']}")
    assert (kept.content, kept.headers["content-type"]) == (png(), "image/png")
    assert kept.headers["x-content-type-options"] == "nosniff"


def test_what_is_no_picture_is_refused(server: Server) -> None:
    for body in (b"", b"<html>", png()[:40]):
        answer = server.client.post("/api/v1/inputs", content=body)
        assert answer.status_code == 422, answer.text


def test_no_other_file_can_be_asked_for(server: Server) -> None:
    for name in ("0" * 64, "..%2f..%2fconfig.json", "settings"):
        assert server.client.get(f"/api/v1/inputs/{name}").status_code == 404
