"""Links in place of pictures."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sdforge.api.links import without_links
from sdforge.core.errors import InvalidRequest
from sdforge.core.settings import Settings
from tests.api.conftest import Server, StartServer, small
from tests.core.test_outbound import at, serving


def payload(**values: Any) -> dict[str, Any]:
    return {"alwayson_scripts": {}} | values


@pytest.mark.parametrize(
    ("route", "values"),
    [
        ("txt2img", {"enable_hr": True, "firstpass_image": "http://127.0.0.1/x.png"}),
        ("img2img", {"init_images": ["https://example.com/x.png"]}),
        ("img2img", {"init_images": ["AAAA"], "mask": " HTTP://example.com/x.png"}),
        ("png-info", {"image": "http://169.254.169.254/latest"}),
    ],
)
def test_links_are_refused_unless_they_are_switched_on(
    shared_server: Server, route: str, values: dict[str, Any]
) -> None:
    answer = shared_server.client.post(f"/sdapi/v1/{route}", json=small() | values)
    assert answer.status_code == 422
    assert "api_enable_requests" in answer.json()["errors"]


def test_links_into_the_local_network_are_refused_all_the_same(start_server: StartServer) -> None:
    server = start_server(api_enable_requests=True)
    with serving() as web:
        answer = server.client.post("/sdapi/v1/png-info", json={"image": at(web, "/picture")})
    assert answer.status_code == 422
    assert "local network" in answer.json()["errors"]


def test_the_switches_cannot_be_thrown_over_the_api(server: Server) -> None:
    keys = ("api_enable_requests", "api_forbid_local_requests", "api_useragent")
    before = server.client.get("/sdapi/v1/options").json()
    wanted = {keys[0]: True, keys[1]: False, keys[2]: "mine"}
    assert server.client.post("/sdapi/v1/options", json=wanted).status_code == 200
    after = server.client.get("/sdapi/v1/options").json()
    assert [after[key] for key in keys] == [before[key] for key in keys] == [False, True, ""]
    body = small(override_settings=wanted, init_images=["http://127.0.0.1:1/x.png"])
    assert server.client.post("/sdapi/v1/img2img", json=body).status_code == 422


def test_links_become_pictures_where_they_may_be_followed() -> None:
    settings = Settings(api_enable_requests=True, api_forbid_local_requests=False)
    with serving() as web:
        link = at(web, "/picture")
        unit = {"image": {"image": link, "mask": None}, "model": "http://is.a/name"}
        sent = payload(init_images=[link, "AAAA"], mask=link, alwayson_scripts={"X": [link]})
        got = without_links(sent, settings)
        controlled = payload(alwayson_scripts={"ControlNet": {"args": [unit | {"model": "m"}]}})
        control = without_links(controlled, settings)
    encoded = base64.b64encode(b"pixels").decode()
    assert got["init_images"] == [encoded, "AAAA"]
    assert got["mask"] == encoded
    assert got["alwayson_scripts"] == {"X": [link]}
    assert control["alwayson_scripts"]["ControlNet"]["args"][0]["image"]["image"] == encoded
    with pytest.raises(InvalidRequest, match="init_images"):
        without_links(payload(init_images=["http://127.0.0.1:1/x"]), settings)
