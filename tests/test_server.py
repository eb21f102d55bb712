"""Which requests go where, and who may make them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from sdforge import flags
from sdforge.server import Server

HOST = "http://127.0.0.1:7860"


class Echo:
    """Answers every request with its name and the path that it saw."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = "new"

    async def start(self) -> None:
        self.state = "started"

    async def stop(self) -> None:
        self.state = "stopped"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = f"{self.name} {scope['path']} below {scope.get('root_path', '')!r}"
        await PlainTextResponse(text)(scope, receive, send)


def make_server(*arguments: str) -> Server:
    values: dict[str, Any] = dict(flags.parse(arguments))
    return Server(Echo("api"), flags=values, on_start=lambda: None)


@pytest.fixture
def page() -> Echo:
    return Echo("page")


def client_of(server: Server, page: Echo | None = None) -> TestClient:
    if page is not None:
        asyncio.run(server.set_page(page))
    return TestClient(server, base_url=HOST)


def test_the_api_answers_while_the_page_is_being_built() -> None:
    client = client_of(make_server())
    assert client.get("/sdapi/v1/options").text == "api /sdapi/v1/options below ''"
    waiting = client.get("/")
    assert waiting.status_code == 503
    assert 'http-equiv="refresh"' in waiting.text
    assert "being built" in waiting.text


def test_the_page_is_served_when_it_has_been_built(page: Echo) -> None:
    with client_of(make_server(), page) as client:
        assert client.get("/").text == "page / below ''"
        assert client.get("/healthz").text == "api /healthz below ''"
        assert page.state == "started"
    assert page.state == "stopped"


def test_a_page_that_could_not_be_built_says_why_in_safe_html() -> None:
    server = make_server()
    server.set_failure("<b>no gradio</b>")
    answer = client_of(server).get("/")
    assert answer.status_code == 503
    assert "&lt;b&gt;no gradio&lt;/b&gt;" in answer.text


def test_without_a_page_every_path_is_the_api_s() -> None:
    assert client_of(make_server("--nowebui")).get("/").text == "api / below ''"


@pytest.fixture
def guarded(page: Echo) -> Iterator[TestClient]:
    with client_of(make_server("--api-auth", "ann:secret,bob:b:c"), page) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/config", "/internal/progress"])
def test_with_a_password_the_page_and_its_plumbing_ask_for_it(
    guarded: TestClient, path: str
) -> None:
    refused = guarded.get(path)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
    assert guarded.get(path, auth=("ann", "wrong")).status_code == 401
    assert guarded.get(path, auth=("ann", "secret")).status_code == 200
    assert guarded.get(path, auth=("bob", "b:c")).status_code == 200


def test_with_a_password_a_probe_may_still_ask_whether_the_server_is_alive(
    guarded: TestClient,
) -> None:
    assert guarded.get("/healthz").status_code == 200


def test_with_a_password_websockets_are_closed(guarded: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), guarded.websocket_connect("/queue/join"):
        pass


def test_a_preflight_carries_no_password_and_is_the_api_s_to_answer(guarded: TestClient) -> None:
    headers = {"Origin": "http://a", "Access-Control-Request-Method": "POST"}
    assert guarded.options("/internal/progress", headers=headers).status_code == 200


def test_unreadable_passwords_are_refused_at_start() -> None:
    with pytest.raises(ValueError, match="user:password"):
        make_server("--api-auth", "nocolon")


def test_the_page_is_not_served_to_other_host_names(page: Echo) -> None:
    """A web page elsewhere could otherwise reach it by pointing its own name at 127.0.0.1."""
    client = client_of(make_server(), page)
    assert client.get("/", headers={"Host": "attacker.example"}).status_code == 403


@pytest.mark.parametrize("path", ["/sd/sdapi/v1/options", "/sdapi/v1/options"])
def test_a_subpath_is_understood_whether_or_not_the_proxy_takes_it_out(path: str) -> None:
    answer = client_of(make_server("--subpath", "/sd/")).get(path)
    assert answer.text == "api /sd/sdapi/v1/options below '/sd'"


def test_a_subpath_is_not_mistaken_for_the_beginning_of_a_longer_name(page: Echo) -> None:
    client = client_of(make_server("--subpath", "sd"), page)
    assert client.get("/sdapi/v1/options").text.startswith("api ")
    assert client.get("/sd").text.startswith("page ")
