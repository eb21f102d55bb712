from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.core.control import (
    CONTROL_MODES,
    HIRES_OPTIONS,
    RESIZE_MODES,
    UNION_TYPES,
    UNKNOWN_TYPE,
    ControlUnit,
)
from sdforge.output.infotext import parse_infotext
from sdforge.output.infotext_control import control_values


def told(**texts: str) -> dict[int, dict[str, Any]]:
    pairs = ", ".join(f"ControlNet {key[1:]}: {json.dumps(text)}" for key, text in texts.items())
    text = f"a fox\nSteps: 2, Sampler: Euler, Seed: 1, {pairs}, Version: x"
    return control_values(parse_infotext(text).fields)


units = st.builds(
    ControlUnit,
    model=st.from_regex(r"[A-Za-z0-9_.,()\[\] -]{0,20}[A-Za-z0-9]", fullmatch=True).map(str.strip),
    module=st.sampled_from(["none", "canny", "depth_midas"]),
    weight=st.floats(0, 2),
    guidance_start=st.floats(0, 1),
    guidance_end=st.floats(0, 1),
    control_mode=st.sampled_from(CONTROL_MODES),
    resize_mode=st.sampled_from(RESIZE_MODES),
    hires_option=st.sampled_from(HIRES_OPTIONS),
    pixel_perfect=st.booleans(),
    processor_res=st.integers(-1, 2048),
    threshold_a=st.floats(-1, 255),
    threshold_b=st.floats(-1, 255),
    union_control_type=st.sampled_from([*UNION_TYPES, UNKNOWN_TYPE]),
)


@settings(deadline=None)
@given(units)
def test_what_is_written_of_a_unit_is_read_back(unit: ControlUnit) -> None:
    values = told(_1=unit.infotext())
    assert ControlUnit(**values[1]) == unit


def test_texts_of_older_versions_are_read_too() -> None:
    text = (
        "preprocessor: canny, model: control_v11p_sd15_canny [d14c016b], weight: 0.8, "
        "starting/ending: (0.1, 0.9), resize mode: Crop and Resize, pixel perfect: True, "
        "control mode: Balanced, preprocessor params: (512, 100, 200)"
    )
    assert told(_0=text) == {
        0: {
            "module": "canny", "model": "control_v11p_sd15_canny [d14c016b]", "weight": 0.8,
            "guidance_start": 0.1, "guidance_end": 0.9, "resize_mode": "Crop and Resize",
            "pixel_perfect": True, "control_mode": "Balanced", "processor_res": 512,
            "threshold_a": 100.0, "threshold_b": 200.0,
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Module: canny, Weight: 7", {"module": "canny"}),
        ("Module: canny, Weight: heavy, Control Mode: firm", {"module": "canny"}),
        ("Module: canny, Guidance Start: nan, Pixel Perfect: maybe", {"module": "canny"}),
        ("Module: canny, Processor Res: 1e99", {"module": "canny"}),
        ("Model: a, b, Weight: 1", {"model": "a, b", "weight": 1.0}),
    ],
)
def test_what_cannot_be_used_is_left_out(text: str, values: dict[str, Any]) -> None:
    assert told(_2=text) == {2: values}


def test_units_come_in_order_and_those_without_a_value_not_at_all() -> None:
    found = told(_2="Module: invert", _0="Module: canny", _1="nothing to see", _77="Module: canny")
    assert list(found) == [0, 2]
