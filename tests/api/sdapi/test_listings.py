"""Lists for menus."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdforge.api.sdapi.listings import masked_flags
from tests.api.conftest import Server, StartServer


def test_samplers_have_names_aliases_and_options(shared_server: Server) -> None:
    samplers = {row["name"]: row for row in shared_server.client.get("/sdapi/v1/samplers").json()}
    assert "k_euler_a" in samplers["Euler a"]["aliases"]
    assert all(set(row) == {"name", "aliases", "options"} for row in samplers.values())


def test_schedulers_have_a1111s_keys(shared_server: Server) -> None:
    schedulers = {
        row["name"]: row for row in shared_server.client.get("/sdapi/v1/schedulers").json()
    }
    assert schedulers["karras"]["label"] == "Karras"
    keys = {"name", "label", "aliases", "default_rho", "need_inner_model"}
    assert all(set(row) == keys for row in schedulers.values())


def test_every_listed_sampler_and_scheduler_can_be_asked_for(server: Server) -> None:
    samplers = [row["name"] for row in server.client.get("/sdapi/v1/samplers").json()]
    labels = [row["label"] for row in server.client.get("/sdapi/v1/schedulers").json()]
    for name in samplers:
        server.draw(sampler_name=name)
    for label in labels:
        server.draw(sampler_name="Euler", scheduler=label)


def test_upscalers_have_a1111s_shape(shared_server: Server) -> None:
    upscalers = shared_server.client.get("/sdapi/v1/upscalers").json()
    assert upscalers[0]["name"] == "None"
    keys = {"name", "model_name", "model_path", "model_url", "scale"}
    assert all(set(row) == keys for row in upscalers)
    shipped = upscalers[-1]
    assert (shipped["name"], shipped["model_name"]) == ("R-ESRGAN AnimeVideo",) * 2
    assert shipped["scale"] == 4.0
    assert shipped["model_path"].endswith("realesr-animevideov3.safetensors")


def test_real_esrgans_own_models_are_listed_where_their_files_are(shared_server: Server) -> None:
    (model,) = shared_server.client.get("/sdapi/v1/realesrgan-models").json()
    assert (model["name"], model["scale"]) == ("R-ESRGAN AnimeVideo", 4)


@pytest.mark.parametrize(
    ("route", "empty"),
    [
        ("face-restorers", []),
        ("extensions", []),
    ],
)
def test_what_this_version_lacks_is_an_empty_list(
    shared_server: Server, route: str, empty: object
) -> None:
    answer = shared_server.client.get(f"/sdapi/v1/{route}")
    assert (answer.status_code, answer.json()) == (200, empty)


@pytest.mark.parametrize("route", ["refresh-vae"])
def test_refreshing_answers_null(shared_server: Server, route: str) -> None:
    answer = shared_server.client.post(f"/sdapi/v1/{route}")
    assert (answer.status_code, answer.json()) == (200, None)


def test_flags_are_shown_without_their_secrets(start_server: StartServer) -> None:
    server = start_server({"port": 7860, "gradio_auth": "me:secret", "listen": False})
    answer = server.client.get("/sdapi/v1/cmd-flags")
    assert answer.json() == {"gradio_auth": "***", "listen": False, "port": 7860}
    assert "secret" not in answer.text


def test_flags_that_are_no_json_are_shown_as_text() -> None:
    flags = {"data_dir": Path("a/b"), "dirs": (Path("c"),), "api_auth": None}
    assert masked_flags(flags) == {"data_dir": str(Path("a/b")), "dirs": ["c"], "api_auth": None}
