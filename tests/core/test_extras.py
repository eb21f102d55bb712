"""What extras do to sizes, and which values they take."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.core.errors import InvalidRequest
from sdforge.core.extras import BY_FACTOR, TO_SIZE, Extras
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest

SIDES = st.integers(1, 5000)


@given(
    width=SIDES, height=SIDES, to_width=SIDES, to_height=SIDES, factor=st.floats(0.05, 16),
    limit=st.integers(0, 4000), crop=st.booleans(), mode=st.sampled_from([BY_FACTOR, TO_SIZE]),
)  # fmt: skip
@settings(deadline=None)
def test_sizes_are_as_asked_for_any_picture(
    width: int,
    height: int,
    to_width: int,
    to_height: int,
    factor: float,
    limit: int,
    crop: bool,
    mode: int,
) -> None:
    extras = Extras(
        resize_mode=mode, factor=factor, max_side=limit, width=to_width, height=to_height,
        crop=crop, upscaler="Lanczos",
    )  # fmt: skip
    extras.check()
    covering = extras.enlarged_size(width, height)
    made = extras.result_size(width, height)
    assert min(covering) >= 1
    if mode == TO_SIZE:
        assert covering[0] >= to_width and covering[1] >= to_height
        assert to_width in (covering[0], covering[0] - 1) or to_height in (
            covering[1], covering[1] - 1,
        )  # fmt: skip
        assert made == ((to_width, to_height) if crop else covering)
    else:
        assert made == covering
        assert max(made) <= max(limit, 1) or not extras.is_limited(width, height)


@pytest.mark.parametrize(
    ("size", "factor", "wanted"),
    [((33, 20), 1.5, (49, 30)), ((100, 100), 1.1, (110, 110)), ((3, 2), 0.1, (1, 1))],
)
def test_factors_give_whole_pixels(
    size: tuple[int, int], factor: float, wanted: tuple[int, int]
) -> None:
    assert Extras(factor=factor, upscaler="Lanczos").result_size(*size) == wanted


def test_nothing_is_resized_without_an_upscaler() -> None:
    assert Extras(factor=4).result_size(9, 7) == (9, 7)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"resize_mode": 2}, "resize_mode"),
        ({"factor": 0.0}, "upscaling_resize"),
        ({"factor": float("nan")}, "upscaling_resize"),
        ({"width": 0}, "upscaling_resize_w"),
        ({"height": -3}, "upscaling_resize_h"),
        ({"max_side": -1}, "max_side_length"),
        ({"second_visibility": 1.5}, "extras_upscaler_2_visibility"),
        ({"gfpgan_visibility": 2.0}, "gfpgan_visibility"),
    ],
)
def test_values_out_of_limits_are_named(values: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Extras(**values).check()  # type: ignore[arg-type]
    assert caught.value.field == field


def test_faces_are_restored_in_order_where_they_have_a_share() -> None:
    assert Extras().restorers == ()
    both = Extras(codeformer_visibility=0.5, gfpgan_visibility=1.0)
    assert both.restorers == (("GFPGAN", 1.0), ("CodeFormer", 0.5))


def test_a_request_with_extras_survives_json() -> None:
    extras = Extras(upscaler="x", second_visibility=0.5, names=("a", "b"), folder="somewhere")
    request = GenerationRequest(init_images=(InputImage("0" * 64, 3, 2),), extras=extras)
    again = GenerationRequest.from_json(json.loads(json.dumps(request.to_json())))
    assert again == request
    assert again.kind == "extras"
    newer = request.to_json() | {"extras": extras.to_json() | {"from_a_later_version": 1}}
    assert GenerationRequest.from_json(newer).extras == extras
