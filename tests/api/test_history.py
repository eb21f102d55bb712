"""The history over the API."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.api.conftest import Server
from tests.engine.fakes import PATIENCE


@pytest.fixture
def drawn(server: Server) -> Server:
    server.draw(prompt="a red fox", save_images=True, seed=1)
    server.draw(prompt="a blue owl", save_images=True, seed=2)
    return server


def search(server: Server, **query: Any) -> list[dict[str, Any]]:
    answer = server.client.get("/api/v1/history", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["pictures"]
    return found


def test_pictures_are_found_and_looked_at(drawn: Server) -> None:
    assert [row["prompt"] for row in search(drawn)] == ["a blue owl", "a red fox"]
    (fox,) = search(drawn, q="fox")
    assert not {"path", "trash_path", "infotext"} & set(fox)
    data = drawn.client.get(fox["url"])
    assert data.headers["Content-Type"] == "image/png"
    small = drawn.client.get(fox["thumbnail"], params={"size": 64})
    assert Image.open(io.BytesIO(small.content)).format == "WEBP"
    whole = drawn.client.get(f"/api/v1/history/{fox['number']}").json()
    assert whole["request"]["prompt"] == "a red fox"
    assert whole["infotext"].startswith("a red fox")
    same = drawn.client.post("/api/v1/history/find", content=data.content).json()
    assert [row["number"] for row in same["pictures"]] == [fox["number"]]


def test_marks_trash_and_undo(drawn: Server) -> None:
    owl, fox = search(drawn)
    number = fox["number"]
    assert drawn.client.put(f"/api/v1/history/{number}/favourite").json()["is_favourite"] is True
    assert [row["number"] for row in search(drawn, favourite=True)] == [number]
    assert (
        drawn.client.delete(f"/api/v1/history/{number}/favourite").json()["is_favourite"] is False
    )
    body = {"numbers": [number, 999]}
    trashed = drawn.client.post("/api/v1/history/trash", json=body).json()
    assert trashed["numbers"] == [number] and set(trashed["failed"]) == {"999"}
    assert [row["number"] for row in search(drawn)] == [owl["number"]]
    assert [row["number"] for row in search(drawn, trash=True)] == [number]
    assert drawn.client.post("/api/v1/history/restore", json=body).json()["numbers"] == [number]
    assert len(search(drawn)) == 2
    drawn.client.post("/api/v1/history/trash", json=body)
    assert drawn.client.post("/api/v1/history/empty-trash").json() == {"deleted": 1}
    assert drawn.client.get(f"/api/v1/history/{number}").status_code == 404


def test_a_picture_is_drawn_again_from_its_job_or_its_infotext(drawn: Server) -> None:
    fox = search(drawn, q="fox")[0]
    job = drawn.client.post(f"/api/v1/history/{fox['number']}/again").json()
    done = drawn.engine.wait(job["id"], PATIENCE)
    assert (done.request.prompt, done.request.seed) == ("a red fox", 1)
    folder = drawn.paths.data / "outputs" / "txt2img-images"
    (folder / "copy.png").write_bytes(drawn.client.get(fox["url"]).content)
    info = PngInfo()
    text = "a grey wolf\nSteps: 3, Sampler: Euler, CFG scale: 5, Seed: 9, Size: 64x64, Model: tiny"
    info.add_text("parameters", text)
    Image.new("RGB", (64, 64)).save(folder / "wolf.png", pnginfo=info)
    assert drawn.client.post("/api/v1/history/import").status_code == 202
    thread = drawn.engine.history._importing
    assert thread is not None
    thread.join(PATIENCE)
    status = drawn.client.get("/api/v1/history/import").json()
    assert (status["is_running"], status["added"]) == (False, 2)
    (row,) = search(drawn, kind="imported", q="wolf")
    answer = drawn.client.post(f"/api/v1/history/{row['number']}/again")
    assert answer.status_code == 202, answer.text
    request = drawn.engine.wait(answer.json()["id"], PATIENCE).request
    assert (request.prompt, request.seed, request.steps) == ("a grey wolf", 9, 3)
    (copy,) = search(drawn, kind="imported", q="fox")
    copies = drawn.client.post("/api/v1/history/trash-copies").json()
    assert copy["number"] in copies["numbers"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "?limit=0", None, 422),
        ("GET", "?limit=5000", None, 422),
        ("GET", "?seed=99999999999999999999", None, 422),
        ("GET", "?q=-only", None, 422),
        ("GET", "/700000", None, 404),
        ("GET", "/99999999999999999999999", None, 404),
        ("GET", "/../../etc/passwd", None, 404),
        ("GET", "/x", None, 422),
        ("GET", "/700000/thumbnail?size=5000", None, 422),
        ("POST", "/700000/again", None, 404),
        ("POST", "/trash", {"numbers": "all"}, 422),
        ("POST", "/trash", {"numbers": list(range(20_000))}, 422),
        ("POST", "/empty-trash?older_than_days=-1", None, 422),
        ("PUT", "/700000/favourite", None, 404),
    ],
)
def test_what_cannot_be_is_refused(
    shared_server: Server, method: str, path: str, body: Any, status: int
) -> None:
    answer = shared_server.client.request(method, f"/api/v1/history{path}", json=body)
    assert answer.status_code == status
    assert "errors" in answer.json()
