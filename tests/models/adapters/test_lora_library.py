"""Which LoRA files there are and what they may be called."""

import hashlib
from pathlib import Path

import pytest

from sdforge.core.paths import Paths
from sdforge.models.adapters.lora_library import LoraLibrary
from tests.tiny_lora import write_lora

LAYERS = {"lora_unet_a": (8, 8)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "Lora"


@pytest.fixture
def library(tmp_path: Path) -> LoraLibrary:
    return LoraLibrary(Paths.under(tmp_path))


def found(library: LoraLibrary, name: str) -> str | None:
    info = library.find(name)
    return info and info.relative


def test_a_file_is_found_by_stem_alias_path_and_any_case(
    library: LoraLibrary, folder: Path
) -> None:
    write_lora(folder / "sub" / "My Style.safetensors", LAYERS, metadata={"ss_output_name": "mst"})
    for name in ("My Style", "my style", "MST", "sub/my style", "sub\\My Style.safetensors"):
        assert found(library, name) == "sub/My Style.safetensors"
    assert library.find("other") is None


def test_an_alias_that_two_files_have_means_neither(library: LoraLibrary, folder: Path) -> None:
    for stem in ("a", "b"):
        write_lora(folder / f"{stem}.safetensors", LAYERS, metadata={"ss_output_name": "same"})
    assert library.find("same") is None
    assert found(library, "b") == "b.safetensors"


def test_a_file_name_outranks_another_files_alias(library: LoraLibrary, folder: Path) -> None:
    write_lora(folder / "a.safetensors", LAYERS, metadata={"ss_output_name": "b"})
    write_lora(folder / "b.safetensors", LAYERS)
    assert found(library, "b") == "b.safetensors"


def test_files_added_later_are_found_and_deleted_ones_are_not_after_a_refresh(
    library: LoraLibrary, folder: Path
) -> None:
    assert library.loras() == []
    path = write_lora(folder / "new.safetensors", LAYERS)
    assert found(library, "new") == "new.safetensors"
    path.unlink()
    library.refresh()
    assert library.find("new") is None


def test_broken_files_and_pickles_are_listed_with_the_reason(
    library: LoraLibrary, folder: Path
) -> None:
    write_lora(folder / "good.safetensors", LAYERS)
    (folder / "page.safetensors").write_bytes(b"<html></html>")
    (folder / "old.pt").write_bytes(b"\x80\x02cposix\nsystem\n.")
    errors = {info.name: info.error for info in library.loras()}
    assert errors["good"] is None
    assert "web page" in (errors["page"] or "")
    assert "posix.system" in (errors["old"] or "")


def test_both_folders_and_the_extra_one_are_searched(tmp_path: Path) -> None:
    extra = tmp_path / "elsewhere"
    paths = Paths(data=tmp_path, models=tmp_path / "models", extra_loras=(extra,))
    for root in paths.loras:
        write_lora(root / f"{root.name}.safetensors", LAYERS)
    names = {info.name for info in LoraLibrary(paths).loras()}
    assert names == {"Lora", "LyCORIS", "elsewhere"}


def test_the_hash_is_of_what_follows_the_header_unless_the_file_says_it(
    library: LoraLibrary, folder: Path
) -> None:
    plain = write_lora(folder / "plain.safetensors", LAYERS)
    said = {"sshs_model_hash": "0123456789abcdef"}
    write_lora(folder / "said.safetensors", LAYERS, metadata=said)
    data = plain.read_bytes()
    tensors = data[8 + int.from_bytes(data[:8], "little") :]
    plain_info, said_info = library.find("plain"), library.find("said")
    assert plain_info is not None
    assert said_info is not None
    assert library.short_hash(plain_info) == hashlib.sha256(tensors).hexdigest()[:12]
    assert library.short_hash(said_info) == "0123456789ab"


def test_metadata_is_listed_as_what_it_says(library: LoraLibrary, folder: Path) -> None:
    metadata = {
        "ss_tag_frequency": '{"1_cat": {"cat": 3}}',
        "ss_network_dim": "8",
        "odd": "{not json",
        "ssmd_cover_images": "[…]",
    }
    write_lora(folder / "x.safetensors", LAYERS, metadata=metadata)
    assert library.loras()[0].readable_metadata() == {
        "ss_tag_frequency": {"1_cat": {"cat": 3}},
        "ss_network_dim": "8",
        "odd": "{not json",
    }
