"""Texts are encoded once, kept within a number of bytes, and put together over time."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from sdforge.core.settings import Settings
from sdforge.models.bundle import ModelBundle
from sdforge.models.denoiser import Conditioning
from sdforge.models.text_encoder import Situation
from sdforge.pipeline.conditioning import BatchConditioning, ConditioningCache, PromptEncoder
from sdforge.pipeline.prompts import BatchPrompts
from sdforge.prompt.schedule import Timeline
from tests.tiny import Parts

SITUATION = Situation(width=64, height=64)


@pytest.fixture
def bundle(loaded: Parts) -> ModelBundle:
    return loaded.provider.get("")


def encode(
    bundle: ModelBundle,
    *positive: str,
    negative: str = "",
    cache: ConditioningCache | None = None,
    **settings: Any,
) -> BatchConditioning:
    given = Settings().with_overrides(settings)
    encoder = PromptEncoder(cache or ConditioningCache(), bundle, given, Timeline(10), SITUATION)
    return encoder.batch(BatchPrompts(positive, (negative,) * len(positive)))


def test_equal_texts_are_one_conditioning(bundle: ModelBundle) -> None:
    made = encode(bundle, "a [cat|dog]", "a cat AND a dog", negative="a cat")
    (turns, cat), (again, dog) = made.parts
    assert turns.ends == tuple(range(1, 11))
    assert turns.conds[0] is turns.conds[2] is cat.conds[0] is made.uncond[0].conds[0]
    assert turns.conds[1] is not turns.conds[0]
    assert torch.equal(turns.conds[1].hidden, dog.conds[0].hidden)
    assert all(one is other for one, other in zip(again.conds, turns.conds, strict=True))


def test_a_picture_of_fewer_parts_has_its_first_again_without_weight(bundle: ModelBundle) -> None:
    made = encode(bundle, "a", "a AND b :0.5 AND c")
    assert made.weights == ((1.0, 1.0), (0.0, 0.5), (0.0, 1.0))
    assert made.pictures == 2


def test_the_negative_prompt_has_no_parts_but_changes_over_time(bundle: ModelBundle) -> None:
    made = encode(bundle, "x", negative="a AND [b:c:5]")
    assert len(made.parts) == 1
    assert made.uncond[0].ends == (5, 10)


def test_settings_change_what_is_encoded_and_are_kept_apart(bundle: ModelBundle) -> None:
    cache = ConditioningCache()
    text = ", ".join(["(red:1.5) apple on a table"] * 20)
    variants = [
        {}, {"emphasis": "No norm"}, {"emphasis": "Ignore"}, {"emphasis": "None"},
        {"CLIP_stop_at_last_layers": 2}, {"comma_padding_backtrack": 0},
    ]  # fmt: skip
    made = [encode(bundle, text, cache=cache, **v).parts[0][0].conds[0] for v in variants]
    for number, one in enumerate(made):
        for other in made[:number]:
            assert one.hidden.shape != other.hidden.shape or not torch.equal(
                one.hidden, other.hidden
            )
    again = [encode(bundle, text, cache=cache, **v).parts[0][0].conds[0] for v in variants]
    assert all(first is second for first, second in zip(made, again, strict=True))


def test_the_empty_prompt_is_there_for_padding_only_where_it_is_wanted(
    bundle: ModelBundle,
) -> None:
    assert encode(bundle, "a").empty is None
    empty = encode(bundle, "a", pad_cond_uncond=True).empty
    assert empty is not None and empty.tokens == 77


def a_conditioning(tokens: int) -> Conditioning:
    return Conditioning(torch.zeros(1, tokens, 4))


def test_the_cache_keeps_to_its_bytes_and_drops_what_was_not_used_for_longest() -> None:
    one = a_conditioning(10).nbytes
    cache, bundle = ConditioningCache(max_bytes=3 * one), cast(ModelBundle, object())
    made: list[str] = []

    def get(name: str, tokens: int = 10) -> None:
        cache.get(bundle, (name,), lambda: made.append(name) or a_conditioning(tokens))

    for name in "abcadacb":
        get(name)
    # d took the place of b, and b then that of d.
    assert "".join(made) == "abcdb"
    made.clear()
    get("huge", 1000)
    get("a")
    assert made == ["huge", "a"]


def test_another_bundle_empties_the_cache() -> None:
    cache, made = ConditioningCache(), []
    first, second = (cast(ModelBundle, object()) for _ in range(2))
    for bundle in (first, first, second, first):
        cache.get(bundle, ("a",), lambda: made.append(1) or a_conditioning(1))
    assert len(made) == 3
