"""Settings: coercion, snapshots, and a file that is never half-written."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdforge
from sdforge.core.errors import InvalidRequest, StorageError
from sdforge.core.settings import OPTIONS, Settings, SettingsStore

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children)
    ),
    max_leaves=5,
)


def test_every_option_accepts_its_default_and_says_what_it_allows() -> None:
    for key, option in OPTIONS.items():
        assert option.coerce(option.default) == option.default, key
        assert option.allowed()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("jpeg_quality", 90.0, 90),
        ("jpeg_quality", "90", 90),
        ("samples_save", "false", False),
        ("samples_save", 0, False),
        ("eta_ancestral", 1, 1.0),
        ("sd_model_checkpoint", None, ""),
    ],
)
def test_clients_spellings_are_understood(key: str, value: object, expected: object) -> None:
    made = OPTIONS[key].coerce(value)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("jpeg_quality", 0),
        ("jpeg_quality", 80.5),
        ("jpeg_quality", "many"),
        ("samples_format", "tiff"),
        ("forge_inference_memory", -1),
        ("eta_ancestral", float("nan")),
        ("samples_save", "perhaps"),
        ("outdir_samples", 3),
    ],
)
def test_unusable_values_name_the_key_and_what_is_allowed(key: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=key) as caught:
        Settings().with_overrides({key: value})
    assert OPTIONS[key].allowed() in str(caught.value)


@given(key=st.sampled_from(sorted(OPTIONS)), value=JSON_VALUES)
def test_any_json_value_is_either_taken_as_the_right_type_or_refused(
    key: str, value: object
) -> None:
    try:
        made = Settings().with_overrides({key: value})
    except InvalidRequest:
        return
    assert isinstance(getattr(made, key), OPTIONS[key].kind)


def test_a_snapshot_is_not_changed_by_overriding() -> None:
    settings = Settings()
    changed = settings.with_overrides({"jpeg_quality": 10})
    assert (settings.jpeg_quality, changed.jpeg_quality) == (80, 10)


def test_settings_persist_and_unknown_keys_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    SettingsStore(path).update({"jpeg_quality": 77, "key_of_another_program": [1]})
    again = SettingsStore(path).current
    assert again.jpeg_quality == 77
    assert again.others == {"key_of_another_program": [1]}


def test_an_update_is_all_or_nothing(tmp_path: Path) -> None:
    store = SettingsStore(tmp_path / "config.json")
    with pytest.raises(InvalidRequest):
        store.update({"jpeg_quality": 77, "n_rows": 99})
    assert store.current.jpeg_quality == 80
    assert not (tmp_path / "config.json").exists()


def test_an_equal_update_writes_nothing(tmp_path: Path) -> None:
    store = SettingsStore(tmp_path / "config.json")
    store.update(store.current.to_json())
    assert not (tmp_path / "config.json").exists()


def test_flags_win_but_are_not_written_until_the_user_sets_the_value(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    store = SettingsStore(path, overrides={"memory_mode": "lowvram"})
    assert store.current.memory_mode == "lowvram"
    store.update({"jpeg_quality": 50})
    assert json.loads(path.read_text())["memory_mode"] == "auto"
    assert store.update({"memory_mode": "medvram"}).memory_mode == "medvram"
    assert SettingsStore(path).current.memory_mode == "medvram"


def test_an_unreadable_file_is_kept_aside_and_defaults_are_used(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"jpeg_quality": ')
    assert SettingsStore(path).current == Settings()
    aside = list(tmp_path.glob("config.json.unreadable-*"))
    assert [file.read_text() for file in aside] == ['{"jpeg_quality": ']


def test_one_bad_value_in_the_file_does_not_cost_the_others(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"jpeg_quality": "bad", "n_rows": 3}))
    settings = SettingsStore(path).current
    assert (settings.jpeg_quality, settings.n_rows) == (80, 3)


def test_listeners_hear_of_changes_only(tmp_path: Path) -> None:
    store = SettingsStore(tmp_path / "config.json")
    heard: list[int] = []
    store.subscribe(lambda settings: heard.append(settings.jpeg_quality))
    store.update({"jpeg_quality": 80})
    store.update({"jpeg_quality": 81})
    assert heard == [81]


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    store = SettingsStore(blocked / "config.json")
    with pytest.raises(StorageError, match="could not write"):
        store.update({"jpeg_quality": 81})
    assert store.current.jpeg_quality == 80


def test_every_preset_has_gpu_weights_and_values_for_the_forms() -> None:
    choices = OPTIONS["forge_preset"].choices or ()
    presets = {str(name) for name in choices} - {"all"}
    assert presets == {"sd", "xl", "flux", "flux2", "zimage", "qwen"}
    assert {name for name in presets if f"{name}_GPU_MB" in OPTIONS} == presets
    script = (Path(sdforge.__file__).parent / "ui" / "assets" / "quick.js").read_text("utf-8")
    forms = script.partition("const FORMS = {")[2].partition("\n};")[0]
    assert set(re.findall(r"^  (\w+): \{", forms, re.MULTILINE)) == presets
