"""Prompts must ask for what their wish says."""

import random

from scripts.train_demo.captions import phrase, random_wish
from scripts.train_demo.subjects import BACKGROUNDS, STYLES, SUBJECTS, Wish


def test_an_unusual_background_is_always_named() -> None:
    rng = random.Random(0)
    for _ in range(200):
        assert "purple" in phrase(Wish("cat", "purple", "noto"), rng)


def test_the_second_style_is_always_named() -> None:
    rng = random.Random(0)
    for _ in range(200):
        assert STYLES[1].name in phrase(Wish("cat", "white", STYLES[1].name), rng)


def test_the_empty_wish_is_the_empty_prompt_or_mere_tags() -> None:
    rng = random.Random(0)
    assert not any("background" in phrase(Wish(), rng) for _ in range(100))


def test_random_wishes_are_known() -> None:
    rng = random.Random(0)
    names = {subject.name for subject in SUBJECTS}
    for _ in range(300):
        wish = random_wish(rng)
        assert wish.subject is None or wish.subject in names
        assert wish.background is None or wish.background in BACKGROUNDS


def test_names_and_synonyms_are_unambiguous() -> None:
    words = [word for subject in SUBJECTS for word in (subject.name, *subject.synonyms)]
    assert len(words) == len(set(words))
