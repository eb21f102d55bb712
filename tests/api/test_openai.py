"""OpenAI's images API, asked by OpenAI's own client."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from PIL import Image

from sdforge.engine import JobStatus
from tests.api.conftest import Server, StartServer
from tests.api.serving import served


def picture(size: tuple[int, int] = (64, 64), mode: str = "RGB") -> io.BytesIO:
    file = io.BytesIO()
    Image.new(mode, size, "red").save(file, "PNG")
    file.name = "picture.png"
    file.seek(0)
    return file


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with served(server) as url, OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        yield client


def decoded(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_models_are_listed_and_found(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["other.safetensors", "tiny.safetensors"]
    assert client.models.retrieve("tiny").id == "tiny.safetensors"
    with pytest.raises(openai.NotFoundError, match="no checkpoint"):
        client.models.retrieve("nothing")


def test_pictures_are_drawn(client: OpenAI, server: Server) -> None:
    made = client.images.generate(
        model="gpt-image-1", prompt="a cat", n=2, size="64x128", quality="low",
        output_format="webp", extra_body={"seed": 5, "negative_prompt": "dull"},
    )  # fmt: skip
    assert made.data is not None and len(made.data) == 2
    assert (decoded(made.data[0].b64_json).size, decoded(made.data[1].b64_json).format) == (
        (64, 128),
        "WEBP",
    )
    assert (made.size, made.output_format) == ("64x128", "webp")
    (job,) = server.engine.jobs()
    assert (job.request.steps, job.request.seed, job.request.negative_prompt) == (10, 5, "dull")


def test_a_picture_may_come_as_a_link(client: OpenAI) -> None:
    made = client.images.generate(model="tiny", prompt="a cat", response_format="url", size="64x64")
    assert made.data is not None and made.data[0].url is not None
    import httpx

    assert httpx.get(made.data[0].url).content.startswith(b"\x89PNG")


def test_a_picture_is_drawn_over_where_the_mask_is_transparent(
    client: OpenAI, server: Server
) -> None:
    mask = io.BytesIO()
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 64, 32))
    image.save(mask, "PNG")
    mask.name = "mask.png"
    mask.seek(0)
    made = client.images.edit(image=picture(), mask=mask, prompt="a cat", n=1)
    assert made.data is not None
    assert decoded(made.data[0].b64_json).size == (64, 64)
    (job,) = server.engine.jobs()
    assert job.kind == "img2img" and job.request.mask is not None
    ours = Image.open(io.BytesIO(server.engine.inputs.read(job.request.mask)))
    assert (ours.getpixel((5, 5)), ours.getpixel((5, 60))) == (255, 0)


def test_partial_pictures_come_before_the_whole_one(client: OpenAI, server: Server) -> None:
    server.runner.gate_step = 5
    stream = client.images.generate(
        prompt="a cat", stream=True, partial_images=2, size="64x64", quality="low"
    )
    first = next(stream)
    assert (first.type, first.partial_image_index) == ("image_generation.partial_image", 0)
    assert base64.b64decode(first.b64_json)
    server.runner.gate.set()
    events = list(stream)
    assert events[-1].type == "image_generation.completed"
    assert len(events) <= 2
    assert decoded(events[-1].b64_json).size == (64, 64)
    stream = client.images.edit(image=picture(), prompt="a cat", stream=True)
    assert [event.type for event in stream][-1] == "image_edit.completed"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"size": "large"}, "size"),
        ({"size": "10x10"}, "width"),
        ({"quality": "best"}, "quality"),
        ({"n": 11}, "n"),
        ({"model": "nothing"}, "no checkpoint"),
        ({"output_format": "tiff"}, "output_format"),
    ],
)
def test_wrong_values_are_refused_in_openais_words(
    client: OpenAI, values: dict[str, object], named: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"prompt": "a cat"} | values)  # type: ignore[call-overload]
    assert named in str(caught.value)
    assert caught.value.type == "invalid_request_error"


def test_a_picture_that_is_none_is_refused(client: OpenAI) -> None:
    for call in ({"image": ("x.png", b"text")}, {"image": picture(), "mask": ("m.png", b"text")}):
        with pytest.raises(openai.BadRequestError):
            client.images.edit(prompt="a cat", **call)  # type: ignore[call-overload]


def test_what_fails_inside_is_said(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="the fake broke"):
        client.images.generate(prompt="raise", size="64x64")
    events = client.images.generate(prompt="raise", size="64x64", stream=True)
    with pytest.raises(openai.APIError, match="the fake broke"):
        list(events)


def test_the_key_is_the_password(start_server: StartServer) -> None:
    server = start_server({"api_auth": "me:secret"})
    with served(server) as url:
        for key in ("me:secret", "secret"):
            with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                assert client.models.list().data
        for key in ("wrong", "me:", "me", "me:secret2"):
            with (
                OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
                pytest.raises(openai.AuthenticationError),
            ):
                client.models.list()


def test_a_cancelled_job_is_an_error(client: OpenAI, server: Server) -> None:
    server.engine.pause()
    import threading

    def cancel() -> None:
        while not server.engine.waiting():
            threading.Event().wait(0.01)
        server.engine.cancel_waiting()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(openai.InternalServerError, match="cancelled"):
        client.images.generate(prompt="a cat", size="64x64")
    thread.join()
    assert server.engine.jobs()[0].status is JobStatus.CANCELLED


def test_several_pictures_to_edit_are_refused_where_the_model_refers_to_none(
    shared_server: Server,
) -> None:
    file = ("a.png", picture().read(), "image/png")
    answer = shared_server.client.post(
        "/v1/images/edits",
        data={"prompt": "a hat"},
        files=[("image[]", file), ("image[]", file)],
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "image" and "2 pictures" in error["message"]
