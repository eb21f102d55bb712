from __future__ import annotations

from pathlib import Path

import pytest

from sdforge.core.settings import Settings
from sdforge.prompt.pictures import picture_prompts
from sdforge.prompt.wildcards import WildcardFolder


@pytest.fixture
def folder(tmp_path: Path) -> WildcardFolder:
    (tmp_path / "c.txt").write_text("red\ngreen\nblue\n")
    return WildcardFolder(tmp_path)


def test_pictures_of_the_same_prompt_share_it(folder: WildcardFolder) -> None:
    assert picture_prompts("a cat", ["oil"], [1, 2, 3], folder, Settings()) == ("a cat, oil",)


def test_each_picture_has_the_choices_of_its_seed(folder: WildcardFolder) -> None:
    several = picture_prompts("__c__ {x|y}", [], range(20), folder, Settings())
    assert len(several) == 20
    assert set(several) == {f"{colour} {{x|y}}" for colour in ("red", "green", "blue")}
    alone = [picture_prompts("__c__ {x|y}", [], [n], folder, Settings())[0] for n in range(20)]
    assert list(several) == alone


def test_the_setting_decides_what_a_choice_is(folder: WildcardFolder) -> None:
    off = Settings(dynamic_prompts="Off")
    assert picture_prompts("__c__ {x|x}", [], [1], folder, off) == ("__c__ {x|x}",)
    variants = Settings(dynamic_prompts="Wildcards and variants")
    (text,) = picture_prompts("__c__ {x|x}", [], [1], folder, variants)
    assert text.endswith(" x")


def test_comments_end_before_styles_are_applied_and_choices_made(folder: WildcardFolder) -> None:
    prompt, styles = "a cat # sleeping", ["__c__ {prompt}\nbig # size"]
    (text,) = picture_prompts(prompt, styles, [1], folder, Settings())
    assert text.split()[1:] == ["a", "cat", "big"]
    kept = Settings(enable_prompt_comments=False)
    (text,) = picture_prompts(prompt, styles, [1], folder, kept)
    assert "# sleeping\nbig # size" in text
