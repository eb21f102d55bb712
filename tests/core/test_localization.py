from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdforge.core.localization import Localizations


@pytest.fixture
def localizations(tmp_path: Path) -> Localizations:
    (tmp_path / "fr_FR.json").write_text(json.dumps({"Generate": "Générer", "x": "", "n": 3}))
    (tmp_path / "broken.json").write_text("{")
    return Localizations(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "languages", "chosen"),
    [
        ("Automatic", ["zh-CN", "zh", "en"], "zh_CN"),
        ("Automatic", ["zh"], "zh_CN"),
        ("Automatic", ["fr-FR", "en"], "fr_FR"),
        ("Automatic", ["en-US", "zh-CN"], ""),
        ("Automatic", ["xx", ""], ""),
        ("None", ["zh-CN"], ""),
        ("fr_FR", ["zh-CN"], "fr_FR"),
        ("../../secret", ["zh-CN"], ""),
    ],
)
def test_the_setting_or_the_browser_chooses_the_language(
    localizations: Localizations, wanted: str, languages: list[str], chosen: str
) -> None:
    assert localizations.choose(wanted, languages)[0] == chosen


def test_a_users_file_is_read_and_what_is_no_text_left_out(localizations: Localizations) -> None:
    assert localizations.choose("fr_FR", []) == ("fr_FR", {"Generate": "Générer"})
    assert localizations.choose("broken", []) == ("broken", {})
    assert {"broken", "fr_FR", "zh_CN"} <= set(localizations.names())
