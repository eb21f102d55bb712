"""Routes of later versions."""

from __future__ import annotations

import pytest

from sdforge.api.sdapi.unavailable import MISSING
from tests.api.conftest import Server


@pytest.mark.parametrize("route", MISSING)
def test_a_route_of_later_versions_says_so(shared_server: Server, route: str) -> None:
    for request in ({"json": {}}, {"content": b"{"}):
        answer = shared_server.client.post(f"/sdapi/v1/{route}", **request)  # type: ignore[arg-type]
        assert answer.status_code == 404
        assert "not in this version" in answer.json()["detail"]


def test_an_unknown_route_is_404_in_our_shape(shared_server: Server) -> None:
    answer = shared_server.client.get("/sdapi/v1/artists")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "Not Found"
    assert set(answer.json()) == {"error", "detail", "body", "errors", "message"}
