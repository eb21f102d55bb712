"""What `Engine.submit` makes of styles, comments and choices."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdforge.core.request import GenerationRequest
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine
from tests.engine.fakes import a_request, make_engine


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine that accepts jobs but does not run them, over a folder with styles and choices."""
    (tmp_path / "styles.csv").write_text(
        "name,prompt,negative_prompt\noil,oil of {prompt},photo\nbig,large,\n"
    )
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "colour.txt").write_text("red\ngreen\nblue\n")
    return make_engine(tmp_path)[0]


def test_styles_are_applied_to_what_is_drawn_and_the_typed_text_is_kept(engine: Engine) -> None:
    request = engine.submit(
        a_request("a cat # asleep", negative_prompt="dog", styles=("oil", "nobody", "big"))
    ).request
    assert request.prompt == "a cat # asleep"
    assert request.prompts == ("oil of a cat, large",)
    assert request.negative_prompts == ("dog, photo",)
    assert request.image_prompt(3) == request.prompts[0]


def test_each_picture_gets_its_choice_and_the_same_again_from_its_seed(engine: Engine) -> None:
    request = engine.submit(
        a_request("a __colour__ ball", batch_size=2, batch_count=5, seed=40)
    ).request
    assert len(request.prompts) == 10
    assert len(set(request.prompts)) == 3
    for index in range(10):
        alone = engine.submit(a_request("a __colour__ ball", seed=40 + index)).request
        assert alone.image_prompt(0) == request.image_prompt(index)


def test_choices_of_the_negative_prompt_do_not_follow_the_prompts(engine: Engine) -> None:
    texts = {
        (job.request.image_prompt(0), job.request.image_negative_prompt(0))
        for job in (
            engine.submit(a_request("__colour__", negative_prompt="__colour__", seed=seed))
            for seed in range(60)
        )
    }
    assert len(texts) > 3


def test_an_override_of_the_request_turns_choices_on_and_off(engine: Engine) -> None:
    for mode, expected in (
        ("Off", "__colour__ {x|x}"),
        ("Wildcards and variants", " x"),
    ):
        made = engine.submit(
            a_request("__colour__ {x|x}", overrides={"dynamic_prompts": mode})
        ).request
        assert made.image_prompt(0).endswith(expected)


def test_resolved_prompts_survive_the_way_to_disk(engine: Engine) -> None:
    request = engine.submit(a_request("__colour__", styles=("big",), batch_count=9)).request
    assert GenerationRequest.from_json(request.to_json()) == request


def test_tokens_are_counted_with_styles_and_the_settings_in_force(
    tmp_path: Path, engine: Engine
) -> None:
    assert engine.count_tokens("a cat", steps=20) == (2, 75)
    assert engine.count_tokens("a cat", steps=20, styles=["oil", "big"]) == (6, 75)
    assert engine.count_tokens("", steps=20, styles=["oil"], is_negative=True) == (1, 75)
    assert isinstance(engine.settings, SettingsStore)
    engine.settings.update({"include_styles_into_token_counters": False})
    assert engine.count_tokens("a cat", steps=20, styles=["oil"]) == (2, 75)
