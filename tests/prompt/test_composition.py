from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.prompt.composition import Part, split_parts


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [("", 1.0)]),
        ("a cat", [("a cat", 1.0)]),
        ("a AND b", [("a", 1.0), (" b", 1.0)]),
        ("a AND b AND c", [("a", 1.0), (" b", 1.0), (" c", 1.0)]),
        ("a :0.5 AND b :1.2", [("a", 0.5), (" b", 1.2)]),
        ("a:0.5 AND b", [("a", 0.5), (" b", 1.0)]),
        ("a : 2 AND b", [("a", 2.0), (" b", 1.0)]),
        ("a AND b :-1", [("a", 1.0), (" b", -1.0)]),
        ("a AND b:+.5", [("a", 1.0), (" b", 0.5)]),
        ("a AND b:2.", [("a", 1.0), (" b", 2.0)]),
        ("a AND b:0", [("a", 1.0), (" b", 0.0)]),
        ("a\nAND\nb :0.5\n", [("a", 1.0), ("\nb", 0.5)]),
        # Without AND a number at the end is a weight too
        ("a:0.5", [("a", 0.5)]),
        ("time 12:30", [("time 12", 30.0)]),
        ("a:1:2", [("a:1", 2.0)]),
        # No weights
        ("a:b", [("a:b", 1.0)]),
        ("a:0.5.", [("a:0.5.", 1.0)]),
        ("a:1e3", [("a:1e3", 1.0)]),
        ("a:--1", [("a:--1", 1.0)]),
        ("a:", [("a:", 1.0)]),
        ("(a:1.3)", [("(a:1.3)", 1.0)]),
        ("[a:b:5]", [("[a:b:5]", 1.0)]),
        ("a:" + "9" * 400, [("a:" + "9" * 400, 1.0)]),
        # Only a whole word in capitals splits
        ("a and b", [("a and b", 1.0)]),
        ("BRAND ANDROID AND_", [("BRAND ANDROID AND_", 1.0)]),
        ("a,AND,b", [("a,", 1.0), (",b", 1.0)]),
        ("AND b", [("", 1.0), (" b", 1.0)]),
        ("a AND", [("a", 1.0), ("", 1.0)]),
        # Brackets are torn apart
        ("[a AND b:c:5]", [("[a", 1.0), (" b:c:5]", 1.0)]),
    ],
)
def test_prompts_split_at_and(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert [(part.text, part.weight) for part in split_parts(prompt)] == expected


@given(st.text(max_size=80))
def test_any_text_splits_into_parts_of_finite_weight(prompt: str) -> None:
    parts = split_parts(prompt)
    assert parts
    assert all(math.isfinite(part.weight) for part in parts)


@given(
    st.lists(st.tuples(st.text("abc ,()", max_size=9), st.floats(-9, 9)), min_size=1, max_size=5)
)
def test_parts_joined_come_back(rows: list[tuple[str, float]]) -> None:
    parts = [Part(text.strip(), round(weight, 3)) for text, weight in rows]
    prompt = " AND ".join(f"{part.text} :{part.weight:.3f}" for part in parts)
    found = [Part(part.text.strip(), part.weight) for part in split_parts(prompt)]
    assert found == parts
