"""Styles, token counts, and prompts in A1111's answers."""

from __future__ import annotations

import json

from tests.api.conftest import Server


def write_styles(server: Server) -> None:
    (server.paths.data / "styles.csv").write_text(
        "name,prompt,negative_prompt\noil,oil of {prompt},photo\n"
    )


def test_styles_are_listed_saved_and_deleted(server: Server) -> None:
    listing = lambda: server.client.get("/sdapi/v1/prompt-styles").json()  # noqa: E731
    assert listing() == []
    style = {"name": "a/b c", "prompt": "x", "negative_prompt": "y"}
    assert server.client.post("/api/v1/styles", json=style).status_code == 200
    assert listing() == [style]
    assert server.client.delete("/api/v1/styles/a%2Fb%20c").status_code == 200
    assert listing() == []
    assert server.client.delete("/api/v1/styles/gone").status_code == 404
    for name in ("", False, 20, None, ["a"]):
        answer = server.client.post("/api/v1/styles", json={"name": name})
        assert answer.status_code == 422, name
    assert listing() == []


def test_styles_of_a_request_are_in_its_info_and_infotext(server: Server) -> None:
    write_styles(server)
    info = json.loads(server.draw(prompt="a cat", styles=["oil", "None", "nobody"])["info"])
    assert info["prompt"] == "oil of a cat"
    assert info["all_prompts"] == ["oil of a cat"]
    assert info["all_negative_prompts"] == ["photo"]
    assert info["styles"] == ["oil", "None", "nobody"]
    assert info["infotexts"][0].startswith("oil of a cat\nNegative prompt: photo\nSteps: ")


def test_each_picture_says_what_it_was_drawn_from(server: Server) -> None:
    body = server.draw(
        prompt="{a|b|c|d|e|f|g|h} ball",
        n_iter=4,
        override_settings={"dynamic_prompts": "Wildcards and variants"},
    )
    info = json.loads(body["info"])
    assert len(set(info["all_prompts"])) > 1
    assert info["prompt"] == info["all_prompts"][0]
    for prompt, infotext in zip(info["all_prompts"], info["infotexts"], strict=True):
        assert infotext.startswith(f"{prompt}\nSteps: ")
    assert body["parameters"]["prompt"] == "{a|b|c|d|e|f|g|h} ball"


def test_tokens_are_counted(server: Server) -> None:
    write_styles(server)
    answer = server.client.post(
        "/api/v1/tokens",
        json={"prompt": "a [cat:big dog:0.5] <lora:x:1>", "styles": ["oil"], "steps": 20},
    )
    assert answer.json() == {
        "prompt": {"count": 5, "max": 75},
        "negative_prompt": {"count": 1, "max": 75},
    }
    assert server.client.post("/api/v1/tokens", json={"steps": 0}).status_code == 422


def test_skipping_the_negative_prompt_is_in_the_infotext(server: Server) -> None:
    info = json.loads(server.draw(s_min_uncond=2.5)["info"])
    assert info["extra_generation_params"]["NGMS"] == "2.5"
    assert "NGMS" not in json.loads(server.draw(s_min_uncond=0)["info"])["infotexts"][0]
