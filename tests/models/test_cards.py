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
