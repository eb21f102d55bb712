from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.prompt.networks import ExtraNetwork, take_networks


@pytest.mark.parametrize(
    ("prompt", "text", "networks"),
    [
        ("a cat", "a cat", []),
        ("a <lora:x> cat", "a  cat", [("lora", ["x"], {})]),
        ("<lora:x:0.8>", "", [("lora", ["x", "0.8"], {})]),
        ("<lora:x:0.8:0.5>", "", [("lora", ["x", "0.8", "0.5"], {})]),
        ("<lora:x:te=0.5:unet=1>", "", [("lora", ["x"], {"te": "0.5", "unet": "1"})]),
        ("<lyco:a b:1><hypernet:h>", "", [("lyco", ["a b", "1"], {}), ("hypernet", ["h"], {})]),
        (
            "<lora:x:1> and <lora:x:2>",
            " and ",
            [("lora", ["x", "1"], {}), ("lora", ["x", "2"], {})],
        ),
        ("<lora:folder/x v1.5:1>", "", [("lora", ["folder/x v1.5", "1"], {})]),
        ("<anything:x>", "", [("anything", ["x"], {})]),
        ("<lora:a=b=c>", "", [("lora", ["a=b=c"], {})]),
        ("<lora::1>", "", [("lora", ["", "1"], {})]),
        ("<lora:te=1>", "", [("lora", [], {"te": "1"})]),
        # No networks
        ("a < b > c", "a < b > c", []),
        ("<lora>", "<lora>", []),
        ("<lora:>", "<lora:>", []),
        ("<:x>", "<:x>", []),
        ("<lora:x", "<lora:x", []),
        ("(a:1.2) <3", "(a:1.2) <3", []),
    ],
)
def test_networks_are_taken_out_of_the_text(
    prompt: str, text: str, networks: list[tuple[str, list[str], dict[str, str]]]
) -> None:
    rest, found = take_networks(prompt)
    assert rest == text
    assert [(one.kind, list(one.args), one.named) for one in found] == networks


def test_the_first_item_is_the_name() -> None:
    assert ExtraNetwork("lora", ("x", "1")).name == "x"
    assert ExtraNetwork("lora", ()).name == ""


@given(st.text(max_size=60))
def test_what_is_left_has_no_networks(prompt: str) -> None:
    rest, found = take_networks(prompt)
    if not found:
        assert rest == prompt
    assert len(rest) <= len(prompt)
