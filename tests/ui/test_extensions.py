"""The form's values of extensions."""

import json

import pytest

from sdforge.core.errors import InvalidRequest
from sdforge.extensions.catalog import load_extensions
from sdforge.ui import extensions

KNOWN = load_extensions()


def test_a_new_form_asks_nothing_of_extensions() -> None:
    assert extensions.values_by_extension(extensions.default_values(KNOWN), KNOWN) == {}


def test_an_extension_that_is_on_gets_all_its_values() -> None:
    values = extensions.default_values(KNOWN) | {"freeu.enabled": True, "freeu.b1": "1.3"}
    assert extensions.values_by_extension(values, KNOWN) == {
        "freeu": {
            "enabled": True, "b1": 1.3, "b2": 1.02, "s1": 0.99, "s2": 0.95, "start": 0.0,
            "end": 1.0,
        }
    }  # fmt: skip


def test_a_bad_value_is_named_as_the_page_labels_it() -> None:
    values = extensions.default_values(KNOWN) | {"pag.enabled": True, "pag.scale": 1000}
    with pytest.raises(InvalidRequest, match="Perturbed-Attention Guidance: Scale"):
        extensions.values_by_extension(values, KNOWN)


def test_what_was_asked_comes_back_into_the_form() -> None:
    asked = {"sag": {"enabled": True, "scale": 0.7}}
    values = extensions.form_values(asked, KNOWN)
    assert values["sag.enabled"] is True
    assert values["sag.scale"] == 0.7
    assert values["sag.threshold"] == 1.0
    assert values["freeu.enabled"] is False


def test_a_browser_remembers_values_and_forgets_bad_ones() -> None:
    text = json.dumps({"values": {"freeu.b1": 1.5, "freeu.b2": "x", "gone.field": 1, "steps": 3}})
    assert extensions.stored_values(text, KNOWN) == {"freeu.b1": 1.5}
    for broken in ("", "[", "[]", '{"values": 3}'):
        assert extensions.stored_values(broken, KNOWN) == {}


def test_a_script_is_asked_for_by_its_box_alone() -> None:
    known = extensions.of_tab(KNOWN, "img2img")
    values = extensions.default_values(known) | {"loopback.loops": "3"}
    assert extensions.values_by_extension(values, known) == {}
    asked = extensions.values_by_extension(values | {"loopback.enabled": True}, known)
    assert asked == {"loopback": {"loops": 3, "final_denoising_strength": 0.5, "curve": "Linear"}}
    back = extensions.form_values(asked, known)
    assert back["loopback.enabled"] is True
    assert back["loopback.loops"] == 3
    assert back["sd_upscale.enabled"] is False


def test_a_tab_has_its_own_scripts_and_extensions() -> None:
    txt2img, img2img = (
        set(extensions.of_tab(KNOWN, tab).names()) for tab in ("txt2img", "img2img")
    )
    assert img2img - txt2img == {
        "sd_upscale", "loopback", "img2img_alternative", "outpainting_mk2",
        "poor_mans_outpainting", "soft_inpainting",
    }  # fmt: skip
    assert "freeu" in txt2img
    assert not any(name.startswith("loopback") for name in extensions.default_values(
        extensions.of_tab(KNOWN, "txt2img")
    ))  # fmt: skip
