from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.prompt.wildcards import WildcardFolder, expand

FILES = {
    "colours.txt": "red\n\n# not this\ngreen\nblue\n",
    "animals/cats.txt": "lion\ntiger\n",
    "animals/dogs.txt": "wolf\n",
    "nested.txt": "a __colours__ {big|small} thing\n",
    "loop.txt": "x __loop__\n",
    "weighted.txt": "0::never\n3::often\n1::seldom\n",
    "empty.txt": "\n# only this\n",
}
COLOURS = {"red", "green", "blue"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> WildcardFolder:
    root = tmp_path_factory.mktemp("data")
    (root / "secret.txt").write_text("secret")
    for name, text in FILES.items():
        path = root / "wildcards" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return WildcardFolder(root / "wildcards")


def results(
    prompt: str, folder: WildcardFolder, *, variants: bool = True, seeds: int = 200
) -> Counter[str]:
    return Counter(expand(prompt, folder, seed=seed, variants=variants) for seed in range(seeds))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a __colours__ ball", {f"a {colour} ball" for colour in COLOURS}),
        ("__Colours__", COLOURS),
        ("__animals/cats__", {"lion", "tiger"}),
        ("__animals/*__", {"lion", "tiger", "wolf"}),
        ("__*dogs__", {"wolf"}),
        ("__colours____animals/dogs__", {f"{colour}wolf" for colour in COLOURS}),
        ("{a|b}", {"a", "b"}),
        ("x{a|b}y", {"xay", "xby"}),
        ("{a|}", {"a", ""}),
        ("{a|{b|c}}", {"a", "b", "c"}),
        ("{2$$a|b}", {"a, b", "b, a"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{0$$a|b}", {""}),
        ("{9$$a|b}", {"a, b", "b, a"}),
        ("{1-2$$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{-1$$a|b}", {"", "a", "b"}),
        ("{1-$$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{2-1$$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{2$$__animals/cats__}", {"lion, tiger", "tiger, lion"}),
        ("{0::a|1::b}", {"b"}),
        ("{[a|b]|c}", {"[a|b]", "c"}),
        ("{(a:1.2)|[b:c:0.5]}", {"(a:1.2)", "[b:c:0.5]"}),
        ("{[a|b}", {"[a", "b"}),
    ],
)
def test_choices_are_made(prompt: str, expected: set[str], folder: WildcardFolder) -> None:
    assert set(results(prompt, folder)) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat", "__nothing__", "__", "____", "_colours_", "__init__", "__../secret__",
        "__/etc/passwd__", "__empty__", "{a}", "{prompt}", "{}", "{{a}}", "{[a|b]}", r"\{a|b\}",
        "{a|b", "a|b}", "}{", "[a|b]", "(a:1.2)", "{a:b:0.5}",
    ],
)  # fmt: skip
def test_what_is_no_choice_stays(prompt: str, folder: WildcardFolder) -> None:
    assert expand(prompt, folder, seed=1, variants=True) == prompt


def test_braces_stay_where_variants_are_off(folder: WildcardFolder) -> None:
    found = results("{a|b} __colours__", folder, variants=False)
    assert set(found) == {f"{{a|b}} {colour}" for colour in COLOURS}


def test_lines_may_hold_choices_themselves(folder: WildcardFolder) -> None:
    found = results("__nested__", folder)
    assert set(found) == {f"a {c} {size} thing" for c in COLOURS for size in ("big", "small")}


def test_a_file_that_names_itself_ends(folder: WildcardFolder) -> None:
    assert expand("__loop__", folder, seed=1, variants=True).startswith("x x x")


def test_weights_decide_how_often(folder: WildcardFolder) -> None:
    found = results("__weighted__", folder, seeds=800)
    assert set(found) == {"often", "seldom"}
    assert found["often"] == pytest.approx(600, abs=60)
    even = results("{a|b|c}", folder, seeds=900)
    assert all(count == pytest.approx(300, abs=60) for count in even.values())


def test_the_same_seed_makes_the_same_choices(folder: WildcardFolder) -> None:
    prompt = "{a|b|c} __colours__ {2$$x|y|z}"
    first, again = (expand(prompt, folder, seed=2**33 + 5, variants=True) for _ in range(2))
    assert first == again
    assert len(results(prompt, folder)) > 20


def test_choices_are_those_of_pythons_documented_generator(folder: WildcardFolder) -> None:
    # Pictures must come back in years: random() of a seed is the same in all versions of Python.
    point = random.Random(7).random()  # noqa: S311
    assert expand("{a|b|c|d}", folder, seed=7, variants=True) == "abcd"[int(point * 4)]


def test_names_of_all_wildcards_are_known(folder: WildcardFolder) -> None:
    assert folder.names()[:3] == ["animals/cats", "animals/dogs", "colours"]
    assert WildcardFolder(Path("/does/not/exist")).names() == []


pieces = st.sampled_from(
    ["a", " ", "{", "}", "|", "$$", "2", "1-2", "-", "::", "__colours__", "__", "[", "]", "\\", "#"]
)


@given(st.lists(pieces, max_size=30).map("".join), st.integers(0, 2**32))
def test_any_prompt_expands(prompt: str, seed: int) -> None:
    folder = WildcardFolder(Path("/does/not/exist"))
    expand(prompt, folder, seed=seed, variants=True)
    assert expand(prompt, folder, seed=seed, variants=False) == prompt
