"""What may be asked of a merge, and how its file is called."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.core.errors import InvalidRequest
from sdforge.core.merge import Merge, discard_pattern, file_name, usual_name
from sdforge.core.request import GenerationRequest


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("my mix", "my mix.safetensors"),
        ("my mix.safetensors", "my mix.safetensors"),
        ("old.CKPT", "old.safetensors"),
        ("../../etc/passwd", "_.._etc_passwd.safetensors"),
        ("C:\\models\\x", "C_models_x.safetensors"),
        ("a\x00b\nc", "a_b_c.safetensors"),
        ("con", "_con.safetensors"),
        (".hidden", "hidden.safetensors"),
        ("模型 0.5(甲) + 0.5(乙)", "模型 0.5(甲) + 0.5(乙).safetensors"),
    ],
)
def test_names_are_those_of_a_file_in_one_folder(typed: str, name: str) -> None:
    assert file_name(typed) == name


@pytest.mark.parametrize("typed", ["", "  ", "...", "/", "\x00", ".safetensors"])
def test_a_name_of_nothing_is_refused(typed: str) -> None:
    with pytest.raises(InvalidRequest, match="custom_name"):
        file_name(typed)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_no_name_leaves_the_folder(typed: str) -> None:
    try:
        name = file_name(typed)
    except InvalidRequest:
        return
    assert not set(name) & set('/\\:*?"<>|\x00')
    assert not name.startswith(".")
    assert len(name.encode()) <= 200
    assert file_name(name) == name


def test_a_merge_without_a_name_is_called_by_what_went_in() -> None:
    assert usual_name("Weighted sum", 0.3, ("a", "b")) == "0.7(a) + 0.3(b)"
    assert usual_name("Add difference", 1.0, ("a", "b", "c")) == "a + 1(b - c)"
    assert usual_name("No interpolation", 0.3, ("a",)) == "a"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"method": "Sigmoid"}, "interp_method"),
        ({"primary": ""}, "primary_model_name"),
        ({"secondary": " "}, "secondary_model_name"),
        ({"method": "Add difference"}, "tertiary_model_name"),
        ({"multiplier": 1.5}, "multiplier"),
        ({"multiplier": float("nan")}, "multiplier"),
        ({"precision": "int3"}, "precision"),
        ({"config_from": 4}, "config_source"),
        ({"discard": "("}, "discard_weights"),
        ({"metadata": {"x": "y" * 3_000_000}}, "metadata_json"),
    ],
)
def test_values_that_cannot_be_used_are_named(values: dict[str, object], field: str) -> None:
    given = {"primary": "a", "secondary": "b"} | values
    with pytest.raises(InvalidRequest) as error:
        Merge(**given).check()  # type: ignore[arg-type]
    assert error.value.field == field


@pytest.mark.parametrize(
    "pattern", ["^model_ema", r"first_stage_model\.", "lora|ema.*x$", "[*+]{2}"]
)
def test_usual_patterns_are_taken(pattern: str) -> None:
    assert discard_pattern(pattern) is not None


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)*b", "a*a*a*b", r"(a)\1", "(?=x)", "a" * 999])
def test_patterns_that_may_never_end_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="discard_weights"):
        discard_pattern(pattern)


def test_a_request_with_a_merge_survives_the_queue() -> None:
    merge = Merge(primary="a", secondary="b", metadata={"k": "v"}, precision="fp8", overwrite=True)
    request = GenerationRequest(merge=merge)
    assert request.kind == "merge"
    assert GenerationRequest.from_json(request.to_json()) == request
