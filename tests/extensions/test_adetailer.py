"""ADetailer's values: as its API has them, in texts and back."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdforge.core.detail import Detail
from sdforge.core.errors import InvalidRequest, NotAvailable
from sdforge.core.extension import complete_values
from sdforge.extensions.builtin.adetailer import ADetailer
from sdforge.extensions.detail_fields import ROWS, name_in
from sdforge.output.infotext import joined_infotext, parse_infotext

EXTENSION = ADetailer()
UNIT = {"ad_model": "face_yolov8n.pt"}


def values_of(*arguments: Any) -> dict[str, Any]:
    return complete_values(EXTENSION, EXTENSION.values_of_arguments(arguments))


@pytest.mark.parametrize(
    ("arguments", "active", "skips"),
    [
        ((UNIT,), True, False),
        ((True, UNIT), True, False),
        ((True, True, UNIT), True, True),
        ((False, UNIT), False, False),
        ((True, False, {}), False, False),
        ((True, False, UNIT | {"ad_tap_enable": False}), False, False),
        ((), False, False),
        ((True, False, {}, UNIT), True, False),
    ],
)
def test_switches_are_optional_and_a_tab_needs_a_model(
    arguments: tuple[Any, ...], active: bool, skips: bool
) -> None:
    values = values_of(*arguments)
    assert EXTENSION.is_active(values) is active
    assert EXTENSION.draws(values) is not skips


def test_defaults_are_those_of_adetailer() -> None:
    (detail,) = EXTENSION.details(values_of(UNIT))
    assert detail == Detail(detector="face_yolov8n.pt", padding=32, strength=0.4, dilate=4)


def test_values_count_where_their_switch_is_on() -> None:
    own = {
        "ad_steps": 9, "ad_cfg_scale": 3.5, "ad_inpaint_width": 700, "ad_inpaint_height": 320,
        "ad_sampler": "DDIM", "ad_checkpoint": "other", "ad_vae": "mine", "ad_clip_skip": 2,
        "ad_noise_multiplier": 1.2,
    }  # fmt: skip
    (off,) = EXTENSION.details(values_of(UNIT | own))
    assert (off.steps, off.cfg_scale, off.size, off.sampler) == (None, None, None, "")
    assert (off.checkpoint, off.vae, off.clip_skip, off.noise_multiplier) == ("", "", None, None)

    switches = {row.under: True for row in ROWS if row.under}
    (on,) = EXTENSION.details(values_of(UNIT | own | switches))
    assert (on.steps, on.cfg_scale, on.size, on.sampler) == (9, 3.5, (696, 320), "DDIM")
    assert (on.checkpoint, on.vae, on.clip_skip, on.noise_multiplier) == ("other", "mine", 2, 1.2)


def test_older_keys_are_understood_and_lacking_ones_refused() -> None:
    (detail,) = EXTENSION.details(values_of(UNIT | {"ad_mask_k_largest": 3, "is_api": []}))
    assert detail.most == 3
    with pytest.raises(NotAvailable, match="ad_model_classes"):
        values_of(UNIT | {"ad_model_classes": "cat"})
    with pytest.raises(InvalidRequest, match="ad_modle"):
        values_of({"ad_modle": "x"})
    with pytest.raises(InvalidRequest, match="3 tabs"):
        values_of(UNIT, UNIT, UNIT)
    # Tabs without a model do not count.
    assert len(EXTENSION.details(values_of(UNIT, {}, {"ad_model": "None"}, UNIT))) == 2


def _value(row: Any) -> st.SearchStrategy[Any]:
    field = row.field
    if field.options:
        return st.sampled_from(field.options)
    if field.kind is bool:
        return st.booleans()
    if field.kind is str:
        # What reads as a list or has spaces around it is what texts quote.
        return st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1)
    number = st.integers if field.kind is int else st.floats
    return number(field.lowest, field.highest)


UNITS = st.fixed_dictionaries(
    {"ad_model": st.sampled_from(["a.pt", "b, c.pt", "None"])},
    optional={
        row.field.name: _value(row)
        for row in ROWS
        if row.field.name not in ("ad_model", "ad_tab_enable")
    },
)


@settings(deadline=None, max_examples=60)
@given(units=st.lists(UNITS, min_size=1, max_size=2), skips=st.booleans())
def test_what_a_text_says_asks_for_the_same_again(units: list[dict[str, Any]], skips: bool) -> None:
    values = values_of(True, skips, *units)
    text = joined_infotext("a cat", "", {"Steps": 3, "Sampler": "Euler", "Seed": 1}
                           | EXTENSION.infotext(values))  # fmt: skip
    found = EXTENSION.values_from_infotext(parse_infotext(text).fields)
    if not EXTENSION.details(values):
        assert found is None
        return
    assert found is not None
    again = complete_values(EXTENSION, found)
    assert EXTENSION.details(again) == EXTENSION.details(values)
    assert EXTENSION.draws(again) == EXTENSION.draws(values)


def test_a_text_of_adetailers_is_read() -> None:
    text = (
        "a girl\nSteps: 20, Sampler: Euler, Seed: 1, ADetailer model: face_yolov8n.pt, "
        'ADetailer prompt: "smiling, [SEP] sad", ADetailer confidence: 0.3, '
        "ADetailer mask only top k largest: 2, ADetailer dilate erode: 4, ADetailer mask blur: 4, "
        "ADetailer denoising strength: 0.4, ADetailer inpaint only masked: True, ADetailer inpaint "
        "padding: 32, ADetailer model 2nd: hand_yolov8n.pt, ADetailer use separate steps 2nd: "
        "True, ADetailer steps 2nd: 30, ADetailer version: 24.4.2"
    )
    found = EXTENSION.values_from_infotext(parse_infotext(text).fields)
    assert found is not None
    first, second = EXTENSION.details(complete_values(EXTENSION, found))
    assert (first.detector, first.prompt, first.most) == (
        "face_yolov8n.pt",
        "smiling, [SEP] sad",
        2,
    )
    assert (second.detector, second.steps, second.strength) == ("hand_yolov8n.pt", 30, 0.4)
    assert name_in(1, "ad_model") == "ad_model_2nd"
