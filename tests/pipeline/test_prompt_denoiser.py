"""Which rows the model is asked for, with which prompts, in which call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdforge.models.denoiser import Conditioning
from sdforge.pipeline.conditioning import BatchConditioning, TimedConditioning
from sdforge.pipeline.prompt_denoiser import PromptDenoiser, rows_at_once
from sdforge.sampling.guidance import UncondSkips

WIDTH = 4
X = torch.zeros(2, 1, 2, 2)


def cond(value: float, chunks: int = 1) -> Conditioning:
    """A prompt whose mean over all tokens is `value`."""
    return Conditioning(torch.full((1, 3 * chunks, WIDTH), value))


def always(conditioning: Conditioning) -> TimedConditioning:
    return TimedConditioning((10,), (conditioning,))


class Model:
    """Guesses each row as the mean of its prompt, and notes what it was asked."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.tokens: list[int] = []
        self.given: list[torch.Tensor] = []
        self.failures = 0

    def __call__(self, x: torch.Tensor, sigma: float, given: Conditioning) -> torch.Tensor:
        if self.failures:
            self.failures -= 1
            raise MemoryError("full")
        assert len(x) == len(given.hidden)
        self.rows.append(len(x))
        self.tokens.append(given.tokens)
        self.given.append(given.hidden)
        return x + given.hidden.mean(dim=(1, 2)).view(-1, 1, 1, 1)


def batch(
    parts: list[list[Conditioning | TimedConditioning]],
    uncond: list[Conditioning | TimedConditioning],
    weights: list[list[float]] | None = None,
    empty: Conditioning | None = None,
) -> BatchConditioning:
    def timed(row: list[Conditioning | TimedConditioning]) -> tuple[TimedConditioning, ...]:
        return tuple(c if isinstance(c, TimedConditioning) else always(c) for c in row)

    given = weights or [[1.0] * len(part) for part in parts]
    return BatchConditioning(
        tuple(timed(part) for part in parts), tuple(map(tuple, given)), timed(uncond), empty
    )


def denoiser(
    model: Model, conditioning: BatchConditioning, cfg_scale: float = 3.0, **options: Any
) -> PromptDenoiser:
    skips = options.pop("skips", UncondSkips(calls=10))
    return PromptDenoiser(
        model, conditioning, cfg_scale=cfg_scale, skips=skips, dtype=torch.float32, **options
    )


def values(result: torch.Tensor) -> list[float]:
    """One number a picture, all its pixels being equal."""
    assert (result == result[:, :1, :1, :1]).all()
    return result[:, 0, 0, 0].tolist()


PLAIN = batch([[cond(2), cond(5)]], [cond(1), cond(1)])


@pytest.mark.parametrize("batched", [True, False])
def test_each_picture_is_guided_by_its_own_prompts(batched: bool) -> None:
    model = Model()
    assert values(denoiser(model, PLAIN, batched=batched)(X, 1.0)) == [4.0, 13.0]
    assert model.rows == ([4] if batched else [2, 2])
    assert rows_at_once(PLAIN, 3.0, batched=batched) == max(model.rows)


def test_rows_are_put_together_once_while_prompts_stay() -> None:
    model = Model()
    guess = denoiser(model, PLAIN)
    for _ in range(5):
        guess(X, 1.0)
    assert all(given is model.given[0] for given in model.given)


def test_without_need_the_negative_prompt_is_not_asked() -> None:
    model = Model()
    guess = denoiser(model, PLAIN, cfg_scale=1.0)
    assert values(guess(X, 1.0)) == [2.0, 5.0]
    assert model.rows == [2] == [rows_at_once(PLAIN, 1.0, batched=True)]
    guided, uncond = guess.with_uncond(X, 1.0)
    assert (values(guided), values(uncond)) == ([2.0, 5.0], [1.0, 1.0])


def test_parts_pull_with_their_weights() -> None:
    model = Model()
    given = batch(
        [[cond(2), cond(5)], [cond(4), cond(5)]], [cond(1), cond(1)], [[1.0, 1.0], [-0.5, 0.0]]
    )
    assert values(denoiser(model, given)(X, 1.0)) == [1 + 3 * 1 - 1.5 * 3, 1 + 3 * 4]
    assert model.rows == [6]


def test_parts_that_share_the_whole_need_no_negative_prompt() -> None:
    model = Model()
    given = batch([[cond(2)], [cond(4)]], [cond(100)], [[0.5], [0.5]])
    assert values(denoiser(model, given, cfg_scale=1.0)(X[:1], 1.0)) == [3.0]
    assert model.rows == [2]


def test_prompts_change_with_the_calls_and_rows_come_back() -> None:
    model = Model()
    first, second = cond(2), cond(6)
    turns = TimedConditioning((1, 2, 3, 10), (first, second, first, second))
    guess = denoiser(model, batch([[turns]], [cond(0)]), cfg_scale=1.0)
    assert [values(guess(X[:1], 1.0))[0] for _ in range(6)] == [2.0, 2.0, 6.0, 2.0, 6.0, 6.0]
    assert len({id(given) for given in model.given}) == 2


def test_a_call_that_failed_is_not_counted() -> None:
    model = Model()
    change = TimedConditioning((1, 10), (cond(2), cond(6)))
    guess = denoiser(model, batch([[change]], [cond(0)]), cfg_scale=1.0)
    guess(X[:1], 1.0)
    model.failures = 3
    for _ in range(3):
        with pytest.raises(MemoryError):
            guess(X[:1], 1.0)
    assert [values(guess(X[:1], 1.0))[0] for _ in range(2)] == [2.0, 6.0]


@pytest.mark.parametrize("cfg_scale", [3.0, 1.0])
def test_skipped_calls_take_the_prompt_for_the_negative_one(cfg_scale: float) -> None:
    model = Model()
    skips = UncondSkips(calls=10, below_sigma=2.0)
    guess = denoiser(model, PLAIN, cfg_scale, skips=skips)
    guess(X, 1.0)
    guided, uncond = guess.with_uncond(X, 1.0)
    assert values(guided) == values(uncond) == [2.0, 5.0]
    assert model.rows[1] == 2


@pytest.mark.parametrize("batched", [True, False])
def test_prompts_of_unequal_length_are_drawn_as_if_alone(batched: bool) -> None:
    """The mean over a prompt repeated whole is its mean, as attention to it is the same."""
    model = Model()
    given = batch([[cond(2), cond(5, chunks=2)]], [cond(1, chunks=4), cond(1)])
    assert values(denoiser(model, given, batched=batched)(X, 1.0)) == [4.0, 13.0]
    assert model.tokens == ([12] if batched else [6, 12])


def test_lengths_far_apart_are_run_one_after_another() -> None:
    model = Model()
    given = batch([[cond(2), cond(5, chunks=7)]], [cond(1), cond(1)])
    assert values(denoiser(model, given)(X, 1.0)) == [4.0, 13.0]
    assert sorted(zip(model.tokens, model.rows, strict=True)) == [(3, 3), (21, 1)]


def test_shorter_prompts_can_be_padded_with_empty_ones() -> None:
    model = Model()
    given = batch([[cond(2, chunks=2)]], [cond(1)], empty=cond(7))
    assert values(denoiser(model, given, cfg_scale=0.0)(X[:1], 1.0)) == [4.0]
    assert model.tokens == [6]


def test_negative_prompts_can_be_fitted_to_the_prompt() -> None:
    model = Model()
    given = batch([[cond(2)]], [cond(1, chunks=3)])
    assert values(denoiser(model, given, cfg_scale=0.0, fit_uncond=True)(X[:1], 1.0)) == [1.0]
    assert model.tokens == [3]
