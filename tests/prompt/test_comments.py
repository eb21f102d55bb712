from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.prompt.comments import strip_comments


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", "a cat"),
        ("a cat # not a dog", "a cat \n"),
        ("# heading\na cat", "\na cat"),
        ("a\n# whole line\nb", "a\nb"),
        ("a # end\nb", "a \nb"),
        ("a # one\nb # two\nc", "a \nb \nc"),
        ("a\n#\nb", "a\nb"),
        ("a#b", "a\n"),
        ("#", "\n"),
        ("a # b # c", "a \n"),
        ("// a /* b */", "// a /* b */"),
        ("", ""),
    ],
)
def test_comments_end_with_their_line(prompt: str, expected: str) -> None:
    assert strip_comments(prompt) == expected


@given(st.text("ab#\n ,", max_size=40))
def test_no_comment_is_left_and_nothing_before_one_is_lost(prompt: str) -> None:
    result = strip_comments(prompt)
    assert "#" not in result
    kept = [line.partition("#")[0] for line in prompt.split("\n")]
    assert "".join(kept) == result.replace("\n", "")
