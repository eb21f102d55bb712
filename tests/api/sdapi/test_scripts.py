"""Extensions as A1111's clients see and use them."""

from typing import Any

import pytest

from tests.api.conftest import Server


def test_titles_are_those_that_clients_send(server: Server) -> None:
    listed = server.client.get("/sdapi/v1/scripts").json()
    assert "freeu integrated (sd 1.x, sd 2.x, sdxl)" in listed["txt2img"]
    assert set(listed["img2img"]) - set(listed["txt2img"]) >= {"sd upscale", "loopback"}


def test_arguments_are_listed_in_the_order_of_positions(server: Server) -> None:
    infos = server.client.get("/sdapi/v1/script-info").json()
    freeu = next(info for info in infos if info["name"].startswith("freeu"))
    assert freeu["is_alwayson"] is True
    assert [argument["label"] for argument in freeu["args"]] == [
        "Enable", "B1", "B2", "S1", "S2", "Start", "End",
    ]  # fmt: skip
    assert freeu["args"][1] == {
        "label": "B1", "value": 1.01, "minimum": 0, "maximum": 4, "step": 0.01, "choices": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "sent",
    [
        {"args": [True, 1.3, 1.4]},
        {"args": [{"enabled": True, "b1": 1.3, "B2": "1.4"}]},
        {"args": {"Enable": True, "b1": 1.3, "b2": 1.4}},
        [True, 1.3, 1.4, None, None, None, None, "one too many", 9],
    ],
)
def test_arguments_are_taken_in_every_form(server: Server, sent: Any) -> None:
    server.draw(alwayson_scripts={"FreeU Integrated (SD 1.x, SD 2.x, SDXL)": sent})
    values = server.engine.jobs(limit=1)[0].request.extensions["freeu"]
    assert values == {
        "enabled": True, "b1": 1.3, "b2": 1.4, "s1": 0.99, "s2": 0.95, "start": 0.0, "end": 1.0,
    }  # fmt: skip


def test_a_value_out_of_its_limits_is_refused_by_name(server: Server) -> None:
    answer = server.client.post(
        "/sdapi/v1/txt2img", json={"alwayson_scripts": {"pag": {"args": [True, 1000]}}}
    )
    assert answer.status_code == 422
    assert "scale" in answer.text


def test_an_unknown_script_is_refused_in_a1111s_words(server: Server) -> None:
    answer = server.client.post(
        "/sdapi/v1/txt2img", json={"alwayson_scripts": {"Unheard Of": {"args": [True]}}}
    )
    assert answer.status_code == 422
    assert "Script 'Unheard Of' not found" in answer.text


def test_selectable_scripts_are_told_apart_and_belong_to_their_route(server: Server) -> None:
    infos = server.client.get("/sdapi/v1/script-info").json()
    (loopback,) = [info for info in infos if info["name"] == "loopback"]
    assert (loopback["is_alwayson"], loopback["is_img2img"]) == (False, True)
    assert [argument["value"] for argument in loopback["args"]] == [4, 0.5, "Linear"]


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"script_name": "Loopback"}, "a script of txt2img"),
        ({"script_name": "no such thing"}, "Script 'no such thing' not found"),
        ({"alwayson_scripts": {"Loopback": {"args": []}}}, "Cannot have a selectable script"),
        ({"script_name": "loopback", "script_args": ["many"]}, "loops"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(
    server: Server, payload: dict[str, Any], said: str
) -> None:
    answer = server.client.post("/sdapi/v1/txt2img", json=payload)
    assert answer.status_code == 422
    assert said in answer.json()["errors"]
