from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from sdforge.core.errors import InvalidRequest, NotFound
from sdforge.prompt.styles import Style, StyleLibrary, apply_styles


@pytest.mark.parametrize(
    ("prompt", "styles", "expected"),
    [
        ("a cat", [], "a cat"),
        ("a cat", ["oil"], "a cat, oil"),
        ("a cat", ["oil", "4k"], "a cat, oil, 4k"),
        (" a cat ", [" oil "], "a cat, oil"),
        ("", ["oil"], "oil"),
        ("a cat", [""], "a cat"),
        ("a cat", ["painting of {prompt}, oil"], "painting of a cat, oil"),
        ("a cat", ["{prompt} and {prompt}"], "a cat and a cat"),
        ("a cat", ["oil", "<{prompt}>"], "<a cat, oil>"),
        ("a cat", ["<{prompt}>", "oil"], "<a cat>, oil"),
        ("", ["<{prompt}>"], "<>"),
        (" a ", ["<{prompt}>"], "< a >"),
    ],
)
def test_styles_go_around_or_behind_the_prompt(
    prompt: str, styles: list[str], expected: str
) -> None:
    assert apply_styles(prompt, styles) == expected


def write(path: Path, *rows: str, head: str = "name,prompt,negative_prompt") -> Path:
    path.write_bytes(codecs.BOM_UTF8 + "\r\n".join((head, *rows, "")).encode())
    return path


def names(library: StyleLibrary) -> list[str]:
    return [style.name for style in library.styles()]


def test_a1111s_file_is_read(tmp_path: Path) -> None:
    file = write(
        tmp_path / "styles.csv", 'oil,"an oil painting, {prompt}",photo', "Грязь,кот,", "empty,,"
    )
    assert StyleLibrary([file]).styles() == [
        Style("oil", "an oil painting, {prompt}", "photo", file),
        Style("Грязь", "кот", "", file),
        Style("empty", "", "", file),
    ]


def test_files_of_the_first_versions_have_a_column_text(tmp_path: Path) -> None:
    file = write(tmp_path / "styles.csv", "oil,an oil painting", head="name,text")
    assert StyleLibrary([file]).styles() == [Style("oil", "an oil painting", "", file)]


def test_without_a_file_there_are_no_styles(tmp_path: Path) -> None:
    library = StyleLibrary([tmp_path / "styles.csv"])
    assert library.styles() == []
    assert library.chosen(["oil"]) == []
    assert list(tmp_path.iterdir()) == []


def test_chosen_styles_come_in_the_order_asked_for_and_unknown_ones_not_at_all(
    tmp_path: Path,
) -> None:
    library = StyleLibrary([write(tmp_path / "styles.csv", "a,1,", "b,2,", "c,3,")])
    found = library.chosen(["c", "None", "nobody", "a", "c"])
    assert [style.name for style in found] == ["c", "a", "c"]


def test_a_file_changed_by_somebody_else_is_read_again(tmp_path: Path) -> None:
    library = StyleLibrary([write(tmp_path / "styles.csv", "a,1,")])
    assert names(library) == ["a"]
    write(tmp_path / "styles.csv", "a,1,", "b,2,")
    assert names(library) == ["a", "b"]


def test_a_saved_style_is_there_and_in_the_file_with_a_backup(tmp_path: Path) -> None:
    file = write(tmp_path / "styles.csv", "a,1,")
    library = StyleLibrary([file])
    library.save("b", 'say "hi", {prompt}\nnow', "no")
    library.save("a", "changed", "")
    expected = [Style("a", "changed", "", file), Style("b", 'say "hi", {prompt}\nnow', "no", file)]
    assert library.styles() == StyleLibrary([file]).styles() == expected
    assert file.read_bytes().startswith(codecs.BOM_UTF8)
    assert (tmp_path / "styles.csv.bak").exists()


def test_a_deleted_style_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    file = write(tmp_path / "styles.csv", "a,1,", "b,2,")
    library = StyleLibrary([file])
    library.delete("a")
    assert names(StyleLibrary([file])) == ["b"]
    with pytest.raises(NotFound):
        library.delete("a")


@pytest.mark.parametrize("name", ["", "  ", "None"])
def test_a_style_needs_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest):
        StyleLibrary([tmp_path / "styles.csv"]).save(name, "x", "")
    assert not (tmp_path / "styles.csv").exists()


def test_several_files_are_read_together_and_keep_their_own_styles(tmp_path: Path) -> None:
    first = write(tmp_path / "styles.csv", "a,1,", "shared,old,")
    second = write(tmp_path / "styles_more.csv", "b,2,", "shared,new,")
    library = StyleLibrary([first, tmp_path / "styles_*.csv"])
    assert {style.name: style.prompt for style in library.styles()} == {
        "a": "1", "b": "2", "shared": "new",
    }  # fmt: skip
    library.save("b", "3", "")
    library.save("c", "4", "")
    assert names(StyleLibrary([first])) == ["a", "shared", "c"]
    assert names(StyleLibrary([second])) == ["b", "shared"]

    headings = [name for name, style in library.listing() if style is None]
    assert headings == [" STYLES ".center(40, "-"), " STYLES_MORE ".center(40, "-")]
    assert [name for name, style in StyleLibrary([first]).listing() if style is None] == []


def test_a_file_that_is_no_table_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "styles.csv"
    file.write_bytes(b"\xff\xfe\x00nothing")
    assert StyleLibrary([file]).styles() == []
    file.write_text("one,two\n1,2\n")
    assert StyleLibrary([file]).styles() == []
    assert file.read_text() == "one,two\n1,2\n"
