"""System information, and the routes that end the server."""

from __future__ import annotations

import json
import threading

import pytest
from starlette.testclient import TestClient

from sdforge.api.app import create_api
from sdforge.api.context import ServerControl
from tests.api.conftest import BASE_URL, Server, StartServer

STOPS = ("server-stop", "server-kill", "server-restart")


def test_system_information_holds_no_secret_path_or_environment(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "of-the-environment")
    flags = {"api_auth": "me:my-password", "data_dir": "/home/me/things", "medvram": True}
    server = start_server(flags)
    client = server.client
    client.auth = ("me", "my-password")
    info = client.get("/internal/sysinfo").json()
    file = client.get("/internal/sysinfo-download")
    assert info["Flags"] == {"api_auth": "***", "medvram": True}
    assert info["Settings"]["jpeg_quality"] == 80
    assert info["Packages"]["fastapi"]
    for text in (json.dumps(info), file.text):
        for secret in ("my-password", "of-the-environment", "/home/me", str(server.paths.data)):
            assert secret not in text
    assert "sysinfo.json" in file.headers["Content-Disposition"]


def test_the_start_is_told_in_seconds(server: Server) -> None:
    control = ServerControl(startup_seconds={"api": 0.5, "page": 2.5})
    app = create_api(server.engine, paths=server.paths, flags={}, version="0", process=control)
    answer = TestClient(app, base_url=BASE_URL).get("/internal/profile-startup").json()
    assert answer == {"total": 2.5, "records": {"api": 0.5, "page": 2.5}}


@pytest.mark.parametrize("route", STOPS)
def test_nobody_can_stop_a_server_that_was_not_started_so(
    shared_server: Server, route: str
) -> None:
    assert shared_server.client.post(f"/sdapi/v1/{route}").status_code == 404


def test_the_server_can_be_stopped_over_the_api_where_that_was_asked_for(server: Server) -> None:
    called: list[str] = []
    done = threading.Event()

    def noted(what: str) -> None:
        called.append(what)
        done.set()

    def client(control: ServerControl) -> TestClient:
        flags = {"api_server_stop": True}
        app = create_api(
            server.engine, paths=server.paths, flags=flags, version="0", process=control
        )
        return TestClient(app, base_url=BASE_URL)

    control = ServerControl(stop=lambda: noted("stop"), kill=lambda: noted("kill"))
    answer = client(control).post("/sdapi/v1/server-stop")
    assert (answer.status_code, answer.text) == (200, "Stopping.")
    assert client(control).post("/sdapi/v1/server-kill").status_code == 200
    answer = client(control).post("/sdapi/v1/server-restart")
    assert (answer.status_code, answer.content) == (501, b"")
    control = ServerControl(restart=lambda: noted("restart"))
    assert client(control).post("/sdapi/v1/server-restart").status_code == 200
    assert called == ["stop", "kill", "restart"]


def test_redoc_is_another_name_of_the_docs(shared_server: Server) -> None:
    answer = shared_server.client.get("/redoc")
    assert answer.status_code == 200
    assert answer.url.path == "/docs"
