"""Host names, origins, passwords, body sizes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from starlette.testclient import TestClient

from sdforge.api.security import Access, host_name, parse_credentials
from tests.api.conftest import Server, StartServer, small

PING = "/internal/ping"
PROTECTED = "/sdapi/v1/samplers"


def basic(user: str, password: str) -> dict[str, str]:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860"])
def test_loopback_names_are_served(shared_server: Server, host: str) -> None:
    assert shared_server.client.get(PING, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.9:7860", ""])
def test_other_host_names_are_refused(shared_server: Server, host: str) -> None:
    answer = shared_server.client.get(PING, headers={"Host": host})
    assert answer.status_code == 403
    assert "--listen" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("flags", "host"),
    [
        ({"listen": True}, "anything.example"),
        ({"server_name": "0.0.0.0"}, "anything.example"),
        ({"server_name": "box.lan"}, "box.lan:7860"),
        ({"allowed_hosts": "a.example, b.example"}, "b.example"),
    ],
)
def test_flags_admit_more_host_names(
    start_server: StartServer, flags: dict[str, Any], host: str
) -> None:
    assert start_server(flags).client.get(PING, headers={"Host": host}).status_code == 200


def test_a_bound_name_does_not_admit_others() -> None:
    access = Access.from_flags({"server_name": "box.lan"})
    assert access.host_allowed("box.lan:80")
    assert not access.host_allowed("other.lan")


@pytest.mark.parametrize(
    ("header", "name"),
    [("A.example:80", "a.example"), ("[::1]:80", "::1"), ("a.", "a"), ("[::1", ""), ("", "")],
)
def test_the_name_is_read_from_the_header(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1"]
)
def test_another_sites_page_cannot_change_anything(shared_server: Server, origin: str) -> None:
    answer = shared_server.client.post("/sdapi/v1/interrupt", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "--cors-allow-origins" in answer.json()["detail"]


def test_a_form_of_another_site_cannot_start_a_job(server: Server) -> None:
    answer = server.client.post(
        "/sdapi/v1/txt2img",
        content=b'{"steps": 1}',
        headers={"Content-Type": "text/plain", "Origin": "http://evil.example"},
    )
    assert answer.status_code == 403
    assert server.engine.jobs() == []


@pytest.mark.parametrize("origin", ["http://127.0.0.1:7860", "https://127.0.0.1:7860"])
def test_our_own_page_may_change_things(shared_server: Server, origin: str) -> None:
    answer = shared_server.client.post("/sdapi/v1/interrupt", headers={"Origin": origin})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "flags",
    [
        {"cors_allow_origins": "http://app.example/, http://other.example"},
        {"cors_allow_origins_regex": r"http://.*\.example"},
    ],
)
def test_allowed_origins_may_change_and_read_things(
    start_server: StartServer, flags: dict[str, Any]
) -> None:
    client = start_server(flags).client
    headers = {"Origin": "http://app.example"}
    answer = client.post("/sdapi/v1/interrupt", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "http://app.example"
    stranger = client.get(PING, headers={"Origin": "http://app.example.evil"})
    assert "Access-Control-Allow-Origin" not in stranger.headers


def test_a_preflight_of_a_stranger_is_refused_like_in_a1111(shared_server: Server) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = shared_server.client.options("/sdapi/v1/txt2img", headers=headers)
    assert (answer.status_code, answer.text) == (400, "Disallowed CORS origin")


def test_a_preflight_needs_no_password(start_server: StartServer) -> None:
    client = start_server({"api_auth": "a:b", "cors_allow_origins": "http://app.example"}).client
    headers = {"Origin": "http://app.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/sdapi/v1/txt2img", headers=headers).status_code == 200
    refused = client.get(PROTECTED, headers={"Origin": "http://app.example"})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "http://app.example"


@pytest.fixture
def guarded(start_server: StartServer) -> TestClient:
    return start_server({"api_auth": "ann:pass:word,bob:öäü"}).client


def test_without_a_password_the_answer_asks_for_one(guarded: TestClient) -> None:
    answer = guarded.get(PROTECTED)
    assert (answer.status_code, answer.json()["detail"]) == (401, "Not authenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    "headers",
    [
        basic("ann", "wrong"),
        basic("ann", ""),
        basic("", ""),
        basic("bob", "pass:word"),
        {"Authorization": "Basic ???"},
        {"Authorization": "Basic"},
        {"Authorization": basic("ann", "pass:word")["Authorization"].replace("Basic", "Bearer")},
    ],
)
def test_a_wrong_password_is_refused(guarded: TestClient, headers: dict[str, str]) -> None:
    answer = guarded.get(PROTECTED, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (401, "Incorrect username or password")
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize("user", [("ann", "pass:word"), ("bob", "öäü")])
def test_the_right_password_is_accepted(guarded: TestClient, user: tuple[str, str]) -> None:
    assert guarded.get(PROTECTED, headers=basic(*user)).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/docs", "/openapi.json", PING, "/healthz/"])
def test_a_password_guards_all_of_the_api(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_checks_need_no_password(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize("text", ["ann", ":secret", "ann:x,bob"])
def test_unreadable_passwords_stop_the_start_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="user:password") as caught:
        parse_credentials(text)
    assert "secret" not in str(caught.value)


def test_a_pattern_of_origins_that_cannot_be_read_stops_the_start() -> None:
    with pytest.raises(ValueError, match="--cors-allow-origins-regex"):
        Access.from_flags({"cors_allow_origins_regex": "("})


def test_a_subpath_changes_nothing(guarded: TestClient) -> None:
    guarded.app.root_path = "/forge"  # type: ignore[attr-defined]
    assert guarded.get("/forge/healthz").status_code == 200
    assert guarded.get("/forge/api/v1/jobs").status_code == 401


def test_a_body_beyond_the_limit_is_refused(shared_server: Server) -> None:
    answer = shared_server.client.post(
        "/sdapi/v1/txt2img", json={}, headers={"Content-Length": str(2**40)}
    )
    assert answer.status_code == 413
    assert "MiB" in answer.json()["detail"]


def test_a_body_in_chunks_is_counted(start_server: StartServer, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "sdforge.api.security.Access.from_flags", lambda flags: Access(max_body_bytes=1000)
    )
    server = start_server()

    def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100

    headers = {"Content-Type": "application/json"}
    answer = server.client.post("/sdapi/v1/txt2img", content=chunks(), headers=headers)
    assert answer.status_code == 413
    assert server.client.post("/sdapi/v1/txt2img", json=small()).status_code == 200


def test_answers_carry_security_headers(shared_server: Server) -> None:
    for path in (PING, "/nowhere", "/docs"):
        headers = shared_server.client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    refused = shared_server.client.get(PING, headers={"Host": "evil.example"})
    assert refused.headers["X-Content-Type-Options"] == "nosniff"
