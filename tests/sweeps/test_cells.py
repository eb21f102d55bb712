from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.core.errors import InvalidRequest
from sdforge.core.model_choice import ModelChoice
from sdforge.core.request import GenerationRequest
from sdforge.extensions.catalog import load_extensions
from sdforge.sweeps import cells
from sdforge.sweeps.axis import find_axis
from sdforge.sweeps.axis_table import axes
from sdforge.sweeps.cells import Expanded
from sdforge.sweeps.request import AskedAxis, Options


class Shelf:
    """A catalog of a few names."""

    extensions = load_extensions()

    def checkpoints(self) -> list[str]:
        return ["cat.safetensors", "pets/dog.safetensors"]

    def checkpoint(self, name: str) -> str:
        return {"cat": "cat.safetensors", "dog": "pets/dog.safetensors"}.get(name, name)

    def vaes(self) -> list[str]:
        return ["Automatic", "None", "fine.safetensors"]

    def styles(self) -> list[str]:
        return ["Sketch", "Oil"]

    def loras(self) -> list[str]:
        return ["detail"]

    def upscalers(self) -> list[str]:
        return ["Latent", "Lanczos"]


def expanded(
    *asked: tuple[str, str], options: Options | None = None, limit: int = 1000,
    base: GenerationRequest | None = None,
) -> Expanded:  # fmt: skip
    return cells.expand(
        base or GenerationRequest(prompt="a cat", seed=10),
        [AskedAxis(axis=label, values=values) for label, values in asked],
        options or Options(),
        Shelf(),
        limit=limit,
        rng=random.Random(1),
    )


def test_the_first_axis_varies_fastest() -> None:
    found = expanded(("Steps", "1-3"), ("Seed", "5, 6"), ("CFG Scale", "7"))
    assert found.shape == (3, 2, 1)
    assert [(one.steps, one.seed) for one in found.requests] == [
        (1, 5), (2, 5), (3, 5), (1, 6), (2, 6), (3, 6),
    ]  # fmt: skip


def test_nothing_is_an_axis_of_one_cell() -> None:
    found = expanded(("Nothing", ""), ("Steps", "1, 2"), ("", ""))
    assert found.shape == (1, 2, 1)
    assert found.lines[0].legends == ("",)


def test_a_random_seed_is_the_same_for_all_cells_unless_it_is_kept() -> None:
    base = GenerationRequest(seed=-1)
    fixed = {one.seed for one in expanded(("Steps", "1-3"), base=base).requests}
    assert len(fixed) == 1 and fixed != {-1}
    kept = expanded(("Steps", "1-3"), base=base, options=Options(keep_random=True))
    assert {one.seed for one in kept.requests} == {-1}


def test_random_values_of_a_seed_axis_are_drawn_once() -> None:
    found = expanded(("Seed", "-1, -1, 3"), ("Steps", "1, 2"))
    seeds = [one.seed for one in found.requests]
    assert seeds[:3] == seeds[3:]
    assert seeds[0] != seeds[1] and -1 not in seeds
    assert found.lines[0].legends[0] == f"Seed: {seeds[0]}"


@pytest.mark.parametrize(
    ("varied", "seeds"),
    [
        ((), [10] * 8),
        ((0,), [10, 11, 10, 11, 10, 11, 10, 11]),
        ((1,), [10, 10, 11, 11, 10, 10, 11, 11]),
        ((0, 1), [10, 11, 12, 13, 10, 11, 12, 13]),
        ((0, 2), [10, 11, 10, 11, 12, 13, 12, 13]),
        ((0, 1, 2), [10, 11, 12, 13, 14, 15, 16, 17]),
    ],
)
def test_seeds_count_up_along_the_axes_that_vary_them(
    varied: tuple[int, ...], seeds: list[int]
) -> None:
    found = expanded(
        ("Steps", "1, 2"), ("CFG Scale", "1, 2"), ("Eta", "0, 1"),
        options=Options(vary_seeds=varied),
    )  # fmt: skip
    assert [one.seed for one in found.requests] == seeds


def test_prompts_are_searched_and_replaced_in_both() -> None:
    base = GenerationRequest(prompt="a cat and a cat", negative_prompt="bad cat")
    found = expanded(("Prompt S/R", 'cat, dog, "big, red cow"'), base=base)
    assert [one.prompt for one in found.requests] == [
        "a cat and a cat", "a dog and a dog", "a big, red cow and a big, red cow",
    ]  # fmt: skip
    assert [one.negative_prompt for one in found.requests][1] == "bad dog"
    assert found.lines[0].legends == ("cat", "dog", "big, red cow")


def test_two_axes_may_replace_in_one_prompt() -> None:
    base = GenerationRequest(prompt="red cat")
    found = expanded(("Prompt S/R", "cat, dog"), ("Prompt S/R", "red, blue"), base=base)
    assert [one.prompt for one in found.requests] == [
        "red cat", "red dog", "blue cat", "blue dog",
    ]  # fmt: skip


def test_a_text_that_the_prompt_lacks_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="did not find horse in prompt or negative prompt"):
        expanded(("Prompt S/R", "horse, dog"))


def test_words_of_a_prompt_change_places() -> None:
    base = GenerationRequest(prompt="a red, old, big cat")
    found = expanded(("Prompt order", "red, big"), base=base)
    assert [one.prompt for one in found.requests] == [
        "a red, old, big cat", "a big, old, red cat",
    ]  # fmt: skip
    with pytest.raises(InvalidRequest, match="Prompt order: got 'green'"):
        expanded(("Prompt order", "red, green"), base=base)


def test_a_lora_gets_its_weight_from_an_axis_that_comes_before_it() -> None:
    found = expanded(("LoRA weight", "0.5, 1"), ("LoRA", "detail"))
    assert [one.prompt for one in found.requests] == [
        "a cat <lora:detail:0.5>", "a cat <lora:detail:1>",
    ]  # fmt: skip


def test_too_many_cells_are_refused_with_their_number() -> None:
    with pytest.raises(InvalidRequest, match=r"10 × 11 = 110 cells"):
        expanded(("Steps", "1-10"), ("Seed", "1-11"), limit=100)


@pytest.mark.parametrize(
    ("axis", "values", "said"),
    [
        ("Steps", "0", "Steps: got 0; allowed: a whole number from 1"),
        ("Steps", "few", "Steps: got 'few'"),
        ("Sampler", "Eular", "'Eular'; did you mean"),
        ("Schedule type", "Kerras", "'Kerras'; did you mean 'Karras'"),
        ("VAE", "fien", "no value of VAE named 'fien'"),
        ("Styles", "Skech", "did you mean 'Sketch'"),
        ("LoRA", "detial:1", "did you mean 'detail'"),
        ("LoRA", "detail:much", "detail:0.8"),
        ("RNG source", "TPU", "no value of RNG source named 'TPU'"),
        ("Clip skip", "13", "Clip skip: got 13"),
        ("Hires upscaler", "Lanzcos", "did you mean 'Lanczos'"),
        ("Size", "big", "512x768"),
        ("FP8 mode", "perhaps", "Disable or Enable"),
        ("Always discard next-to-last sigma", "perhaps", "True or False"),
        ("Distilled CFG Scale", "3", "nothing of that kind"),
        ("Seed", "", "at least one value"),
        ("Colour", "red", "no axis named 'Colour'"),
        ("999", "red", "axis: got 999"),
    ],
)
def test_a_bad_value_is_named_before_anything_is_drawn(axis: str, values: str, said: str) -> None:
    if axis == "Distilled CFG Scale" and not find_axis(axes("txt2img"), axis).missing:
        pytest.skip("this version has it")
    with pytest.raises(Exception, match="(?s)" + said.replace("(", r"\(")):
        expanded((axis, values))


@pytest.mark.parametrize(
    ("axis", "written", "value"),
    [
        ("Sampler", "k_euler_a", "Euler a"),
        ("Sampler", "dpm++ 2m karras", "DPM++ 2M Karras"),
        ("Schedule type", "sgm_uniform", "SGM Uniform"),
        ("Checkpoint name", "dog", "pets/dog.safetensors"),
        ("VAE", "FINE", "fine.safetensors"),
        ("VAE", "auto", "Automatic"),
        ("Styles", "oil", "Oil"),
        ("Styles", '"oil, sketch"', "Oil, Sketch"),
        ("FP8 mode", "enable", "float8-e4m3fn"),
        ("RNG source", "cpu", "CPU"),
        ("Refiner checkpoint", "none", ""),
        ("Size", "64x32", [64, 32]),
        ("Tiling", "yes", True),
    ],
)
def test_values_come_in_their_one_spelling(axis: str, written: str, value: object) -> None:
    assert expanded((axis, written)).lines[0].values == (value,)


def test_picked_values_beat_typed_ones_and_typed_ones_stand_in_for_none() -> None:
    def values(picked: tuple[str, ...]) -> tuple[object, ...]:
        asked = [AskedAxis(axis="Sampler", values="Heun", picked=picked)]
        base = GenerationRequest()
        return cells.expand(base, asked, Options(), Shelf(), limit=9).lines[0].values

    assert values(("Euler", "LMS")) == ("Euler", "LMS")
    assert values(()) == ("Heun",)


# --- Forge's indexes -----------------------------------------------------------------------------

FORGE = {
    "txt2img": {
        0: "Nothing", 1: "Seed", 4: "Steps", 5: "Hires steps", 7: "Distilled CFG Scale",
        10: "Sampler", 12: "Checkpoint name", 18: "Schedule type", 24: "Eta", 25: "Clip skip",
        29: "Hires upscaler", 30: "VAE", 31: "Styles", 33: "Face restore",
        36: "Always discard next-to-last sigma", 38: "Refiner checkpoint", 40: "RNG source",
        41: "FP8 mode", 42: "Size",
    },
    "img2img": {
        0: "Nothing", 4: "Steps", 5: "CFG Scale", 7: "Image CFG Scale", 8: "Prompt S/R",
        11: "Checkpoint name", 17: "Schedule type", 24: "Clip skip", 25: "Denoising",
        28: "Cond. Image Mask Weight", 29: "VAE", 37: "Refiner checkpoint", 41: "Size",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "index", "label"),
    [(kind, index, label) for kind, rows in FORGE.items() for index, label in rows.items()],
)
def test_indexes_are_forges(kind: str, index: int, label: str) -> None:
    assert find_axis(axes(kind), index).label == label
    assert find_axis(axes(kind), str(index)).label == label
    assert find_axis(axes(kind), label.upper()).label == label


# --- equal cells ---------------------------------------------------------------------------------


def test_equal_requests_share_a_key() -> None:
    one = GenerationRequest(prompt="a cat", subseed=1)
    assert cells.content_key(one) == cells.content_key(GenerationRequest(prompt="a cat", subseed=2))
    other = GenerationRequest(prompt="a cat", hires_steps=9)
    assert cells.content_key(one) == cells.content_key(other)
    assert cells.content_key(one) != cells.content_key(GenerationRequest(prompt="a dog"))


# --- order ---------------------------------------------------------------------------------------


def test_the_models_of_a_cell_are_those_of_all_its_passes() -> None:
    asked = GenerationRequest(checkpoint="a", refiner="r")
    assert cells.models_of(asked, {}) == (ModelChoice("a"), ModelChoice("r"))
    hires = replace(asked, refiner="", hires=True)
    assert cells.models_of(hires, {"sd_vae": "v"}) == (ModelChoice("a", "v"),)
    other = replace(hires, hires_checkpoint="b", hires_modules=("wide.safetensors",))
    assert cells.models_of(other, {}) == (
        ModelChoice("a"),
        ModelChoice("b", modules=("wide.safetensors",)),
    )
    # Other modules make another model of the same checkpoint; () are its own.
    assert cells.models_of(replace(hires, hires_modules=()), {}) == (
        ModelChoice("a"),
        ModelChoice("a", modules=()),
    )
    varied = replace(hires, overrides={"forge_additional_modules": ["x"]})
    assert cells.models_of(varied, {}) == (ModelChoice("a", modules=("x",)),)


def loads(order: Sequence[int], models: Sequence[tuple[ModelChoice, ...]], room: int = 1) -> int:
    return cells.count_loads([models[index] for index in order], room)


def test_the_costliest_axis_varies_slowest() -> None:
    models = [(ModelChoice(f"m{x}"),) for _, x in product(range(3), range(2))]
    order = cells.drawing_order((2, 3), (1.0, 0.0), models)
    assert order == [0, 2, 4, 1, 3, 5]
    assert loads(order, models) == 2


def test_without_costs_the_last_axis_varies_slowest() -> None:
    models: list[tuple[ModelChoice, ...]] = [(ModelChoice("m"),)] * 8
    assert cells.drawing_order((2, 2, 2), (0.0, 0.0, 0.0), models) == list(range(8))


def test_a_second_costly_axis_goes_to_and_fro() -> None:
    """Checkpoint by refiner, with room for two: the refiner in use is used on."""
    models = [(ModelChoice(f"c{x}"), ModelChoice(f"r{y}")) for y, x in product(range(2), range(2))]
    order = cells.drawing_order((2, 2), (1.0, 1.0), models)
    assert loads(order, models, room=2) == 5
    assert loads([0, 1, 2, 3], models, room=2) > 5


def test_a_checkpoint_that_comes_twice_is_loaded_once() -> None:
    names = ["a", "b", "a", "c"]
    models = [(ModelChoice(name),) for name in names]
    order = cells.drawing_order((4,), (1.0,), models)
    assert order == [0, 2, 1, 3]
    assert loads(order, models) == 3


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.7, 1.0])), max_size=4),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_every_cell_is_drawn_once_and_every_model_loaded_once(
    lines: list[tuple[int, float]], rng: random.Random
) -> None:
    shape = [length for length, _ in lines]
    count = prod(shape)
    models = [(ModelChoice(str(rng.randrange(4))),) for _ in range(count)]
    order = cells.drawing_order(shape, [cost for _, cost in lines], models)
    assert sorted(order) == list(range(count))
    assert loads(order, models) == len(set(models))


@given(st.lists(st.integers(1, 5), max_size=5))
@settings(deadline=None)
def test_coordinates_number_the_cells(shape: list[int]) -> None:
    places = [cells.coordinates(index, shape) for index in range(prod(shape))]
    assert places == [tuple(reversed(p)) for p in product(*map(range, reversed(shape)))]


def test_a_model_in_memory_is_not_loaded_again() -> None:
    models = [(ModelChoice("a"),), (ModelChoice("b"),)]
    assert cells.count_loads(models, 2, held=[ModelChoice("b")]) == 1
    assert cells.count_loads(models, 1, held=[ModelChoice("b")]) == 2
