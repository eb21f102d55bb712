"""Which extensions there are, and that a bad file of the user's harms nothing."""

import logging
import re
from pathlib import Path

import pytest

from sdforge.core.extension import Extension, complete_values
from sdforge.core.script import Script
from sdforge.extensions.catalog import (
    extensions_by_flags,
    load_extensions,
    values_of_extensions,
)

GOOD = """
from sdforge.core.extension import Extension
from sdforge.core.fields import Field

class Upside(Extension):
    name = "upside"
    label = "Upside down"
    fields = (Field(name="enabled", kind=bool, default=False, label="Enable", api="enabled"),)

    def on_picture(self, request, pixels, values):
        return pixels[::-1]
"""


def builtin() -> list[Extension]:
    return list(load_extensions())


@pytest.mark.parametrize("extension", builtin(), ids=lambda extension: extension.name)
def test_the_defaults_of_an_extension_are_valid_and_off(extension: Extension) -> None:
    values = complete_values(extension, {})
    # Of scripts a request names one, or none.
    assert extension.is_active(values) == isinstance(extension, Script)


@pytest.mark.parametrize("extension", builtin(), ids=lambda extension: extension.name)
def test_an_extension_says_what_it_is(extension: Extension) -> None:
    assert extension.name == extension.name.lower().replace(" ", "_")
    assert extension.label
    assert extension.help.endswith(".")
    assert all(field.label and field.api == field.name for field in extension.fields)


def test_forges_titles_are_known() -> None:
    extensions = load_extensions()
    for title, name in {
        "FreeU Integrated (SD 1.x, SD 2.x, SDXL)": "freeu",
        "perturbedattentionguidance integrated": "pag",
        "SelfAttentionGuidance Integrated (SD 1.x, SD 2.x, SDXL)": "sag",
        "DynamicThresholding (CFG-Fix) Integrated": "dynamic_thresholding",
    }.items():
        assert extensions.get(title).name == name


def test_a_file_of_the_users_folder_is_an_extension(tmp_path: Path) -> None:
    (tmp_path / "upside.py").write_text(GOOD)
    (tmp_path / "_helper.py").write_text("raise RuntimeError('not to be loaded')")
    extensions = load_extensions(tmp_path)
    assert extensions.get("Upside down").name == "upside"


def test_a_file_that_fails_is_logged_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('half written')")
    (tmp_path / "upside.py").write_text(GOOD)
    (tmp_path / "zz_again.py").write_text(GOOD)
    with caplog.at_level(logging.ERROR):
        extensions = load_extensions(tmp_path)
    assert "upside" in extensions
    assert "broken.py could not be loaded" in caplog.text
    assert "zz_again.py could not be loaded" in caplog.text


def test_those_that_ship_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "upside.py").write_text(GOOD)
    assert load_extensions(tmp_path, builtin=()).names() == ["upside"]
    assert load_extensions(builtin=()).names() == []
    no_flags = {"disable_all_extensions": False, "disable_extra_extensions": False}
    everything = extensions_by_flags(no_flags, tmp_path).names()
    extra_off = extensions_by_flags(no_flags | {"disable_extra_extensions": True}, tmp_path)
    assert extra_off.names() == load_extensions().names() == everything[:-1]
    all_off = extensions_by_flags(no_flags | {"disable_all_extensions": True}, tmp_path)
    assert all_off.names() == []


def test_the_examples_of_the_documentation_load(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "extensions.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    for number, example in enumerate(examples):
        (tmp_path / f"example{number}.py").write_text(example)
    assert load_extensions(tmp_path, builtin=()).names() == ["upside", "terse"]


def test_values_are_read_from_a_pictures_infotext() -> None:
    text = (
        "a cat\nSteps: 4, Sampler: Euler, CFG scale: 7.0, Seed: 1, "
        'FreeU: "b1: 1.2, b2: 1.3, s1: 0.9, s2: 0.8, start: 0.0, end: 1.0"'
    )
    found = values_of_extensions(text, load_extensions())
    assert found == {
        "freeu": {
            "enabled": True, "b1": 1.2, "b2": 1.3, "s1": 0.9, "s2": 0.8, "start": 0.0, "end": 1.0,
        }
    }  # fmt: skip
