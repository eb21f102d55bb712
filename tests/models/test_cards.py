from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdforge.core.errors import InvalidRequest
from sdforge.models.cards import preview_of, read_notes, write_notes, write_preview


def test_notes_are_a1111s_file_and_what_others_wrote_stays(tmp_path: Path) -> None:
    model = tmp_path / "x.safetensors"
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"activation text": "a fox", "preferred weight": 0.8, "own": [1]}))
    assert read_notes(model)["activation_text"] == "a fox"
    changed = write_notes(model, {"description": "ein Füchslein", "preferred_weight": 0.5})
    assert (changed["description"], changed["activation_text"]) == ("ein Füchslein", "a fox")
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert kept == {
        "activation text": "a fox", "preferred weight": 0.5, "own": [1],
        "description": "ein Füchslein",
    }  # fmt: skip


@pytest.mark.parametrize(
    "values", [{"preferred_weight": "x"}, {"preferred_weight": -1}, {"notes": 3}, {"owner": "me"}]
)
def test_wrong_notes_are_refused_and_change_nothing(
    tmp_path: Path, values: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        write_notes(tmp_path / "x.safetensors", values)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_of_notes_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "x.txt").write_text("from beside\n")
    notes = read_notes(tmp_path / "x.safetensors")
    assert (notes["description"], notes["preferred_weight"]) == ("from beside", 0.0)


def test_a_new_preview_is_the_one_that_is_shown(tmp_path: Path) -> None:
    model = tmp_path / "x.v2.safetensors"
    assert preview_of(model) is None
    (tmp_path / "x.v2.png").write_bytes(b"old")
    assert preview_of(model) == tmp_path / "x.v2.png"
    written = write_preview(model, b"new")
    assert preview_of(model) == written == tmp_path / "x.v2.preview.png"
    assert (tmp_path / "x.v2.png.replaced").read_bytes() == b"old"


CIVITAI = {
    "id": 77,
    "modelId": 12,
    "name": "v2",
    "trainedWords": ["ink drawing", "fine lines, ", 3],
    "baseModel": "SDXL 1.0",
    "description": "<p>For <b>pens</b> &amp; ink.</p><script>alert(1)</script><p>Weight 0.8</p>",
    "model": {"name": "Ink", "type": "LORA"},
}


def test_what_a_download_helper_left_fills_empty_notes(tmp_path: Path) -> None:
    model = tmp_path / "x.v2.safetensors"
    (tmp_path / "x.v2.civitai.info").write_text(json.dumps(CIVITAI))
    notes = read_notes(model)
    assert notes["description"] == "For pens & ink.\nWeight 0.8"
    assert (notes["activation_text"], notes["sd_version"]) == ("ink drawing, fine lines", "SDXL")
    assert notes["page"] == "https://civitai.com/models/12?modelVersionId=77"
    # The user's own words count, also where they are none.
    write_notes(model, {"activation_text": "", "description": "mine"})
    again = read_notes(model)
    assert (again["activation_text"], again["description"]) == ("", "mine")
    assert again["sd_version"] == "SDXL"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"trainedWords": "ink", "modelId": "12&x=", "id": True, "model": [1]}),
        json.dumps({"description": 3, "baseModel": None, "modelId": -1, "id": 2}),
        "[" * 100_000,
    ],
)
def test_odd_files_of_helpers_say_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.civitai.info").write_text(text)
    notes = read_notes(tmp_path / "x.safetensors")
    assert not any(notes.values())
