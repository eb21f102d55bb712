"""The live protocol: who may connect, what is said, and what happens to clients that misbehave.

Drawing itself is tested with the model that ships, in tests/live_mode; here a fake draws at once.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from sdforge.api.attempts import MOST_FAILURES
from sdforge.api.live_messages import FrameHeader, parse, unpack
from sdforge.core.errors import InvalidRequest
from sdforge.live.live import MOST_PICTURE_BYTES, MOST_SESSIONS
from tests.api.conftest import BASE_URL, Server, StartServer

LIVE = BASE_URL.replace("http", "ws") + "/api/v1/live"
PLAIN = {"speed_lora": False}


@contextmanager
def connected(server: Server, **headers: str) -> Iterator[WebSocketTestSession]:
    with server.client.websocket_connect(LIVE, headers=headers) as socket:
        yield socket


def said(socket: WebSocketTestSession, kind: str) -> Any:
    """Return the next message of a kind; "frame" is (header, picture)."""
    while True:
        message = socket.receive()
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"], message.get("reason"))
        if message.get("bytes") is not None:
            if kind == "frame":
                return unpack(message["bytes"])
        elif (found := json.loads(message["text"]))["type"] == kind:
            return found


def draw(socket: WebSocketTestSession, number: int, **values: Any) -> None:
    socket.send_json({"type": "draw", "number": number, "seed": 5, **PLAIN, **values})


def png(side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(file, "PNG")
    return file.getvalue()


def test_a_wish_becomes_a_frame_and_the_next_one_waits_for_the_clients_word(
    server: Server,
) -> None:
    with connected(server) as socket:
        ready = said(socket, "ready")
        assert ready["checkpoint"].startswith("other") and ready["sizes"] == [[64, 64]]
        draw(socket, 1, prompt="a")
        header, picture = said(socket, "frame")
        assert isinstance(header, FrameHeader) and (header.number, header.seed) == (1, 5)
        assert header.timings_ms.keys() >= {"encode", "denoise", "decode", "encode image"}
        with Image.open(io.BytesIO(picture)) as image:
            assert (image.format, image.size) == ("JPEG", (64, 64))
        for number in range(2, 9):
            draw(socket, number, prompt=f"a{number}")
        # Nothing more is drawn before the word comes, and then only the newest.
        socket.send_json({"type": "shown", "number": 1})
        assert said(socket, "pace")["number"] == 1
        assert said(socket, "frame")[0].number == 8
        assert server.runner.ran == ["a", "a8"]
        socket.send_json({"type": "shown", "number": 8})
        pace = said(socket, "pace")
        assert pace["superseded"] == 6 and pace["fps"] > 0


@pytest.mark.parametrize(("name", "kind"), [("webp", "WEBP"), ("png", "PNG"), ("jpeg", "JPEG")])
def test_frames_come_in_the_format_that_the_client_wants(
    server: Server, name: str, kind: str
) -> None:
    with connected(server) as socket:
        socket.send_json({"type": "encoding", "format": name, "quality": 50})
        draw(socket, 1)
        header, picture = said(socket, "frame")
        assert header.media_type == f"image/{name}"
        with Image.open(io.BytesIO(picture)) as image:
            assert image.format == kind


def test_a_frame_can_be_kept(server: Server) -> None:
    with connected(server) as socket:
        draw(socket, 1, prompt="keep me")
        said(socket, "frame")
        socket.send_json({"type": "keep", "number": 1})
        job = server.engine.wait(said(socket, "kept")["job"], 60)
        assert job.status.value == "done" and job.request.prompt == "keep me"
        assert job.origin == "ui" and job.request.seed == 5 and job.images[0].path
        socket.send_json({"type": "keep", "number": 77})
        assert "not kept" in said(socket, "error")["message"]


def test_a_picture_is_taken_and_taken_away(server: Server) -> None:
    with connected(server) as socket:
        socket.send_bytes(png())
        draw(socket, 1, source="picture")
        assert said(socket, "frame")[0].number == 1
        socket.send_json({"type": "shown", "number": 1})
        socket.send_bytes(b"\x89PNG and then nothing")
        assert said(socket, "error")["field"] == "picture"
        socket.send_json({"type": "clear"})
        draw(socket, 2, source="picture")
        assert said(socket, "frame")[0].number == 2


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"steps": 10_000}, "steps"),
        ({"width": 64}, "width"),
        ({"width": 65536, "height": 64}, "width"),
        ({"strength": -1.0}, "strength"),
        ({"strength": math.inf}, "strength"),
        ({"prompt": "x" * 30_000}, "prompt"),
        ({"source": "file:///etc/passwd"}, "source"),
        ({"decoder": "../x"}, "decoder"),
        ({"budget_ms": 0}, "budget_ms"),
        ({"sampler": "no such"}, "sampler_name"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_and_the_connection_goes_on(
    server: Server, values: dict[str, Any], field: str
) -> None:
    with connected(server) as socket:
        draw(socket, 1, **values)
        error = said(socket, "error")
        assert error["field"] == field and error["number"] in (1, None)
        draw(socket, 2)
        assert said(socket, "frame")[0].number == 2


def test_our_own_faults_are_told_without_their_insides(server: Server) -> None:
    with connected(server) as socket:
        draw(socket, 1, prompt="raise")
        error = said(socket, "error")
        assert error["number"] == 1 and "fake" not in error["message"]
        draw(socket, 2)
        assert said(socket, "frame")[0].number == 2


@given(
    st.one_of(
        st.text(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=4),
                st.dictionaries(
                    st.sampled_from(["type", "number", "prompt", "steps", "x", "format"]), inner
                ),
            ),
            max_leaves=12,
        ).map(json.dumps),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["draw", "shown", "keep", "clear", "encoding", "no"])},
            optional={"number": st.one_of(st.integers(), st.text(), st.floats())},
        ).map(json.dumps),
    )
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_a_message_or_refused(text: str) -> None:
    try:
        parse(text)
    except InvalidRequest as error:
        assert error.field


# --- attacks ------------------------------------------------------------------------------------


def refused(server: Server, **headers: str) -> int:
    """Return the status with which a connection is refused; fails when it is not."""
    with pytest.raises(WebSocketDenialResponse) as denial, connected(server, **headers):
        pytest.fail("the connection was let in")
    return denial.value.status_code


@pytest.mark.parametrize(
    "origin",
    ["https://evil.test", "null", "http://127.0.0.1:7860.evil.test", "http://127.0.0.1:9999", ""],
)
def test_a_page_of_another_site_opens_no_connection(shared_server: Server, origin: str) -> None:
    """Cross-site WebSocket hijacking: browsers let any page connect anywhere."""
    if origin:
        assert refused(shared_server, Origin=origin) == 403
    with connected(shared_server, Origin=BASE_URL) as socket:
        assert said(socket, "ready")


def test_a_name_that_is_not_ours_opens_no_connection(shared_server: Server) -> None:
    """DNS rebinding: the page's origin and the Host header agree, and both are the attacker's."""
    headers = {"Host": "evil.test:7860", "Origin": "http://evil.test:7860"}
    assert refused(shared_server, **headers) == 403


def test_without_the_password_nobody_connects_and_guessing_is_slowed(
    start_server: StartServer,
) -> None:
    server = start_server({"api_auth": "me:secret"})

    def basic(text: str) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}

    assert refused(server) == 401
    assert refused(server, **basic("me:wrong")) == 401
    with connected(server, **basic("me:secret")) as socket:
        assert said(socket, "ready")
    for _ in range(MOST_FAILURES):
        refused(server, **basic("me:wrong"))
    assert refused(server, **basic("me:secret")) == 429


def test_a_message_that_is_too_large_ends_the_connection(server: Server) -> None:
    with connected(server) as socket:
        socket.send_bytes(bytes(MOST_PICTURE_BYTES + 1))
        with pytest.raises(WebSocketDisconnect) as closed:
            said(socket, "frame")
        assert closed.value.code == 1009
    with connected(server) as socket:
        socket.send_text("x" * 300_000)
        with pytest.raises(WebSocketDisconnect) as closed:
            said(socket, "frame")
        assert closed.value.code == 1009


def test_a_bomb_of_a_picture_is_refused(start_server: StartServer) -> None:
    server = start_server(max_input_pixels=10_000)
    with connected(server) as socket:
        socket.send_bytes(png(200))
        assert said(socket, "error")["field"] == "picture"


def test_there_is_an_end_to_connections_and_those_that_leave_make_room(server: Server) -> None:
    sockets = [server.client.websocket_connect(LIVE) for _ in range(MOST_SESSIONS)]
    opened = [socket.__enter__() for socket in sockets]
    try:
        for socket in opened:
            said(socket, "ready")
        with (
            pytest.raises(WebSocketDisconnect) as closed,
            server.client.websocket_connect(LIVE) as one_more,
        ):
            said(one_more, "ready")
        assert closed.value.code == 1013
    finally:
        for socket in opened:
            socket.__exit__(None, None, None)
    with connected(server) as socket:
        assert said(socket, "ready")


def test_a_flood_of_wishes_draws_the_last(server: Server) -> None:
    with connected(server) as socket:
        for number in range(1, 1001):
            draw(socket, number, prompt=str(number))
        numbers = []
        while not numbers or numbers[-1] < 1000:
            numbers.append(said(socket, "frame")[0].number)
            socket.send_json({"type": "shown", "number": numbers[-1]})
        assert numbers == sorted(set(numbers))
        assert server.engine.queue_state()["waiting"] == 0 and server.engine.jobs() == []
