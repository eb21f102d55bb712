import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.models.layout import Layout, TensorInfo, read_layout

ONE = {"a.x": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}


def text(header: dict[str, Any], spaces: int = 0) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode() + b" " * spaces


def test_files_that_differ_in_metadata_alone_share_a_layout() -> None:
    first, said = read_layout(text({"__metadata__": {"name": "ü}"}, **ONE}))
    second, nothing = read_layout(text({"__metadata__": {}, **ONE}, spaces=5))
    third, none_at_all = read_layout(text(ONE))
    assert first is second is third
    assert (said, nothing, none_at_all) == ({"name": "ü}"}, {}, {})
    assert first.tensors == {"a.x": TensorInfo("F16", (2, 3), 0, 12)}
    assert first.data_bytes == 12


def test_any_other_difference_makes_another_layout() -> None:
    moved = {"a.x": ONE["a.x"] | {"data_offsets": [4, 16]}}
    assert read_layout(text(moved))[0] is not read_layout(text(ONE))[0]


def test_metadata_are_found_wherever_they_are_and_the_last_of_two_count() -> None:
    assert read_layout(text({**ONE, "__metadata__": {"k": "v"}}))[1] == {"k": "v"}
    first = b'{"__metadata__":{"k":"1"},"__metadata__":{"k":"2"}}'
    assert read_layout(first)[1] == {"k": "2"}
    assert read_layout(b'{"__metadata__":{"k":"1","n":3}}')[1] == {"k": "1"}


@pytest.mark.parametrize(
    "broken",
    [
        b'{"__metadata__":{},}',
        b'{"__metadata__":{} "a":{}}',
        b'{"__metadata__":{',
        b'{"__metadata__":{},"a":{}',
        b"[]",
        b"\xff",
    ],
)
def test_json_that_is_none_is_refused_with_metadata_in_front_too(broken: bytes) -> None:
    with pytest.raises(ValueError, match="is no safetensors file|is damaged"):
        read_layout(broken)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F16", "shape": {}, "data_offsets": [0, 2]},
        {"dtype": "F16", "shape": [True, 1], "data_offsets": [0, 2]},
        {"dtype": "F16", "shape": [-1, -1], "data_offsets": [0, 2]},
        {"dtype": "F16", "shape": [1], "data_offsets": [-2, 0]},
        {"dtype": "F16", "shape": [1.0], "data_offsets": [0, 2]},
        {"dtype": "F16", "shape": "", "data_offsets": [0, 2]},
        {"dtype": "F16", "shape": [1] * 65, "data_offsets": [0, 2]},
        {"dtype": "F16", "shape": [2], "data_offsets": [0, 2]},
    ],
)
def test_an_unsound_tensor_is_refused_among_sound_ones(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"damaged: tensor 'bad'"):
        read_layout(text(ONE | {"bad": entry}))


def test_names_below_a_prefix_come_without_it() -> None:
    layout, _ = read_layout(text(ONE))
    assert layout.under("a.") == {"x": "a.x"}
    assert layout.under("b.") == {}


@settings(deadline=None)
@given(
    names=st.sets(st.text("ab.\U0010ffff", max_size=5), max_size=12),
    prefix=st.text("ab.\U0010ffff", max_size=3),
)
def test_below_a_prefix_are_exactly_the_names_that_begin_with_it(
    names: set[str], prefix: str
) -> None:
    layout = Layout({name: TensorInfo("F16", (), 0, 2) for name in names})
    wanted = {name[len(prefix) :]: name for name in names if name.startswith(prefix)}
    assert layout.under(prefix) == wanted
    assert list(layout.under(prefix)) == sorted(wanted)
    assert layout.has_prefix(prefix) is bool(wanted)


@pytest.mark.parametrize("places", [([0, 4], [2, 6]), ([2, 6], [0, 4])])
def test_overlapping_tensors_are_refused_in_any_order(places: tuple[list[int], ...]) -> None:
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": place}
        for name, place in zip("xy", places, strict=True)
    }
    with pytest.raises(ValueError, match="overlap"):
        read_layout(text(header))


def test_tensors_may_lie_in_any_order() -> None:
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": place}
        for name, place in (("x", [4, 8]), ("y", [0, 4]))
    }
    assert read_layout(text(header))[0].data_bytes == 8
