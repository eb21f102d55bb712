from __future__ import annotations

from pathlib import Path

from sdforge.prompt.tags import Tag, TagFolder


def test_tags_are_found_by_beginning_alias_and_part_common_ones_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'fox,0,10,"vulpes,Reynard"\nfox_ears,0,99,""\nkitsune_fox,0,500\n# no tag\n\n'
    )
    (tmp_path / "own.txt").write_text("foxglove\n")
    folder = TagFolder(tmp_path)
    assert [tag.name for tag in folder.find("fox", 9)] == [
        "fox_ears", "fox", "foxglove", "kitsune_fox",
    ]  # fmt: skip
    assert [tag.name for tag in folder.find("rey", 9)] == ["fox"]
    assert [tag.name for tag in folder.find("fox e", 9)] == ["fox_ears"]
    assert [tag.name for tag in folder.find("fox", 1)] == ["fox_ears"]
    assert folder.find(" ", 9) == []


def test_a_changed_file_is_read_again_and_a_missing_folder_has_none(tmp_path: Path) -> None:
    folder = TagFolder(tmp_path / "tags")
    assert folder.find("fox", 9) == []
    (tmp_path / "tags").mkdir()
    (tmp_path / "tags" / "x.csv").write_text("fox\n")
    assert [tag.name for tag in folder.find("fox", 9)] == ["fox"]


def test_prompts_have_spaces_and_escaped_brackets() -> None:
    assert Tag("fox_(animal)").as_prompt() == r"fox \(animal\)"
    assert Tag("^_^").as_prompt() == "^_^"
